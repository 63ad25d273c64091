/* Readings of MQTT in one pass: packets cut, topics and devices looked up, values of flat JSON objects in columns.
 *
 * It takes only what has one meaning beyond doubt, and stops before the first packet that is anything else: Python reads
 * on from there. Nothing is read beyond `end`, nothing is allocated, and nothing is kept but what `d` holds. */

#if defined(__FLT_EVAL_METHOD__) && __FLT_EVAL_METHOD__ == 2
#error "doubles must be rounded once: build for SSE2, not for the x87"
#endif

enum { PROBES_MAX = 64, DIGITS_MAX = 18, EXPONENT_DIGITS_MAX = 4, EXPONENT_MAX = 22 };
/* The order is that of KINDS in decoding.py. */
enum { DEVICE, TIME, SEQUENCE, BOOL, I16, I32, I64, F32, F64 };

#define MANTISSA_MAX ((uint64_t)1 << 53)
#define F32_MAX 3.4028234663852886e38
#define KEY_BYTES_MAX sizeof(((gg_slot *)0)->key)

/* Exact as doubles; with a mantissa that is exact too, a product or quotient is rounded once, so correctly. */
static const double POWERS[EXPONENT_MAX + 1] = {
    1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
    1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
};

typedef struct {
    enum { INTEGER, DECIMAL, TEXT, TRUTH, NOTHING } kind;
    int64_t integer; /* of TRUTH: 0 or 1 */
    double decimal;
    const uint8_t *start; /* of TEXT and INTEGER: what was written */
    const uint8_t *stop;
} token;

static int same(const uint8_t *a, const uint8_t *b, uint32_t length) {
    for (uint32_t i = 0; i < length; i++)
        if (a[i] != b[i]) return 0;
    return 1;
}

static uint32_t hash_of(const uint8_t *key, uint32_t length) {
    uint32_t hash = 2166136261u;
    for (uint32_t i = 0; i < length; i++) hash = (hash ^ key[i]) * 16777619u;
    return hash ^ hash >> 15;
}

/* Names may be chosen by somebody who wants them all to hash alike: the search is short, then they are not known. */
static const gg_slot *find(const gg_table *table, const uint8_t *key, uint32_t length) {
    if (length == 0 || length > KEY_BYTES_MAX) return 0;
    uint32_t hash = hash_of(key, length);
    for (uint32_t i = 0; i < PROBES_MAX; i++) {
        const gg_slot *slot = table->slots + ((hash + i) & table->mask);
        if (slot->length == 0) return 0;
        if (slot->hash == hash && slot->length == length && same(slot->key, key, length)) return slot;
    }
    return 0;
}

/* 1: it is known now; 0: there is no place for it. */
int32_t gg_mqtt_learn(gg_table *table, const uint8_t *key, uint32_t length, int32_t route, int32_t place) {
    if (length == 0 || length > KEY_BYTES_MAX) return 0;
    uint32_t hash = hash_of(key, length);
    for (uint32_t i = 0; i < PROBES_MAX; i++) {
        gg_slot *slot = table->slots + ((hash + i) & table->mask);
        if (slot->length) continue;
        slot->hash = hash;
        slot->route = route;
        slot->place = place;
        for (uint32_t k = 0; k < length; k++) slot->key[k] = key[k];
        slot->length = length;
        return 1;
    }
    return 0;
}

static int is_digit(uint8_t c) { return c >= '0' && c <= '9'; }

static const uint8_t *blanks(const uint8_t *p, const uint8_t *end) {
    while (p < end && (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r')) p++;
    return p;
}

/* From behind the quote that opens a text to the one that closes it; 0: it is none, or not a plain one. */
static const uint8_t *text(const uint8_t *p, const uint8_t *end) {
    for (; p < end; p++) {
        if (*p == '"') return p;
        if (*p < 0x20 || *p >= 0x80 || *p == '\\') return 0;
    }
    return 0;
}

/* The fraction and the exponent of a number whose whole part is `mantissa` with so many significant digits. */
static const uint8_t *decimal(const uint8_t *p, const uint8_t *end, uint64_t mantissa, int32_t digits, token *found) {
    int64_t exponent = 0;
    if (*p == '.') {
        const uint8_t *first = ++p;
        for (; p < end && is_digit(*p); p++) {
            if ((digits || *p != '0') && ++digits > DIGITS_MAX) return 0;
            mantissa = mantissa * 10 + (uint64_t)(*p - '0');
            exponent--;
        }
        if (p == first) return 0;
    }
    if (p < end && (*p == 'e' || *p == 'E')) {
        int below = 0;
        int64_t written = 0;
        p++;
        if (p < end && (*p == '+' || *p == '-')) below = *p++ == '-';
        const uint8_t *first = p;
        for (; p < end && is_digit(*p); p++) {
            if (p - first >= EXPONENT_DIGITS_MAX) return 0;
            written = written * 10 + (*p - '0');
        }
        if (p == first) return 0;
        exponent += below ? -written : written;
    }
    if (mantissa > MANTISSA_MAX || exponent < -EXPONENT_MAX || exponent > EXPONENT_MAX) return 0;
    found->kind = DECIMAL;
    found->decimal = (double)mantissa;
    if (exponent < 0)
        found->decimal /= POWERS[-exponent];
    else
        found->decimal *= POWERS[exponent];
    return p;
}

static const uint8_t *number(const uint8_t *p, const uint8_t *end, token *found) {
    int negative = *p == '-';
    uint64_t mantissa = 0;
    int32_t digits = 0;
    found->start = p;
    if (negative) p++;
    if (p == end || !is_digit(*p)) return 0;
    if (*p == '0')
        p++; /* a digit behind it ends the object: it is no number of JSON */
    else
        for (; p < end && is_digit(*p); p++) {
            if (++digits > DIGITS_MAX) return 0;
            mantissa = mantissa * 10 + (uint64_t)(*p - '0');
        }
    if (p < end && (*p == '.' || *p == 'e' || *p == 'E')) {
        p = decimal(p, end, mantissa, digits, found);
        if (p && negative) found->decimal = -found->decimal;
        return p;
    }
    if (negative && mantissa == 0) return 0; /* a whole number has no -0 */
    found->kind = INTEGER;
    found->integer = negative ? -(int64_t)mantissa : (int64_t)mantissa;
    found->stop = p;
    return p;
}

static const uint8_t *word(const uint8_t *p, const uint8_t *end, const char *expected, uint32_t length) {
    return end - p >= (int64_t)length && same(p, (const uint8_t *)expected, length) ? p + length : 0;
}

static const uint8_t *value(const uint8_t *p, const uint8_t *end, token *found) {
    if (p == end) return 0;
    switch (*p) {
    case '"':
        found->kind = TEXT;
        found->start = p + 1;
        found->stop = text(p + 1, end);
        return found->stop ? found->stop + 1 : 0;
    case 't':
        found->kind = TRUTH;
        found->integer = 1;
        return word(p, end, "true", 4);
    case 'f':
        found->kind = TRUTH;
        found->integer = 0;
        return word(p, end, "false", 5);
    case 'n':
        found->kind = NOTHING;
        return word(p, end, "null", 4);
    default:
        return number(p, end, found);
    }
}

/* 1: the value is of the wanted kind and stands in its column now. */
static int store(const gg_key *key, const gg_route *route, const token *found, int32_t row, int32_t *origin) {
    int whole = found->kind == INTEGER;
    int64_t n = found->integer;
    double x;
    switch (key->kind) {
    case DEVICE: {
        if (!whole && found->kind != TEXT) return 0;
        const gg_slot *slot = find(&route->names, found->start, (uint32_t)(found->stop - found->start));
        if (slot == 0) return 0;
        origin[row] = slot->place;
        return 1;
    }
    case TIME:
        if (!whole || n < 0 || n > INT64_MAX / key->factor) return 0;
        ((int64_t *)key->out)[row] = n * key->factor;
        return 1;
    case SEQUENCE:
        if (!whole || n < 0) return 0;
        ((int64_t *)key->out)[row] = n;
        return 1;
    case BOOL:
        if ((!whole && found->kind != TRUTH) || n < 0 || n > 1) return 0;
        ((uint8_t *)key->out)[row] = (uint8_t)n;
        return 1;
    case I16:
        if (!whole || n < INT16_MIN || n > INT16_MAX) return 0;
        ((int16_t *)key->out)[row] = (int16_t)n;
        return 1;
    case I32:
        if (!whole || n < INT32_MIN || n > INT32_MAX) return 0;
        ((int32_t *)key->out)[row] = (int32_t)n;
        return 1;
    case I64:
        if (!whole) return 0;
        ((int64_t *)key->out)[row] = n;
        return 1;
    case F32:
    case F64:
        if (!whole && found->kind != DECIMAL) return 0;
        x = whole ? (double)n : found->decimal;
        if (key->kind == F64) {
            ((double *)key->out)[row] = x;
            return 1;
        }
        if (x < -F32_MAX || x > F32_MAX) return 0;
        if (whole && (n < -(int64_t)MANTISSA_MAX || n > (int64_t)MANTISSA_MAX)) return 0; /* would be rounded twice */
        ((float *)key->out)[row] = (float)x;
        return 1;
    default:
        return 0;
    }
}

/* The place of a key among those wanted, -1 for others. Devices write their keys in the same order each time. */
static int32_t wanted(const gg_route *route, const uint8_t *name, uint32_t length, int32_t expected) {
    for (int32_t i = 0; i < route->count; i++) {
        int32_t k = expected + i;
        if (k >= route->count) k -= route->count;
        if (route->keys[k].length == length && same(route->keys[k].name, name, length)) return k;
    }
    return -1;
}

/* 1: the payload is a plain flat object with every wanted key once, and its values stand in the columns. */
static int object(const uint8_t *p, const uint8_t *end, const gg_route *route, int32_t row, int32_t *origin) {
    uint64_t seen = 0;
    int32_t missing = route->count, expected = 0;
    p = blanks(p, end);
    if (p == end || *p != '{') return 0;
    do {
        p = blanks(p + 1, end);
        if (p == end || *p != '"') return 0;
        const uint8_t *name = p + 1;
        p = text(name, end);
        if (p == 0 || p - name > UINT16_MAX) return 0;
        int32_t k = wanted(route, name, (uint32_t)(p - name), expected);
        p = blanks(p + 1, end);
        if (p == end || *p != ':') return 0;
        token found;
        found.integer = 0;
        p = value(blanks(p + 1, end), end, &found);
        if (p == 0) return 0;
        if (k >= 0) {
            if (seen >> k & 1 || !store(route->keys + k, route, &found, row, origin)) return 0;
            seen |= (uint64_t)1 << k;
            expected = k + 1;
            missing--;
        }
        p = blanks(p, end);
        if (p == end) return 0;
    } while (*p == ',');
    return *p == '}' && missing == 0 && blanks(p + 1, end) == end;
}

/* How many rows were read, all of d->route; d->at is where the first packet begins that was not.
 * A packet is whole, of QoS 0 or 1, neither retained nor repeated, without properties, and its topic is known. */
int32_t gg_mqtt_decode(const uint8_t *data, int64_t at, int64_t end, int32_t five, int64_t size_max, gg_decoder *d) {
    int32_t rows = 0;
    d->packet_id_count = 0;
    d->route = -1;
    while (rows < d->rows_max && end - at >= 2) {
        uint8_t head = data[at];
        if (head != 0x30 && head != 0x32) break;
        int64_t size = data[at + 1], body = at + 2;
        if (size > 0x7f) { /* of two bytes, 16 KiB: more is no usual reading */
            if (body == end || data[body] == 0 || data[body] > 0x7f) break;
            size = (size & 0x7f) | (int64_t)data[body++] << 7;
        }
        if (size < 2 || size > size_max || size > end - body) break;
        int64_t stop = body + size, length = (int64_t)data[body] << 8 | data[body + 1], start = body + 2 + length;
        if (start > stop) break;
        const gg_slot *topic = find(&d->topics, data + body + 2, (uint32_t)length);
        if (topic == 0 || (rows && topic->route != d->route)) break;
        uint16_t packet_id = 0;
        if (head == 0x32) {
            if (stop - start < 2) break;
            packet_id = (uint16_t)(data[start] << 8 | data[start + 1]);
            if (packet_id == 0) break;
            start += 2;
        }
        if (five) {
            if (start == stop || data[start] != 0) break;
            start++;
        }
        d->origin[rows] = topic->place;
        if (!object(data + start, data + stop, d->routes + topic->route, rows, d->origin)) break;
        d->route = topic->route;
        if (packet_id) d->packet_ids[d->packet_id_count++] = packet_id;
        rows++;
        at = stop;
    }
    d->at = at;
    return rows;
}

/* What Python and the decoder share; decoding.py reads this file as well. */

/* A name that is known. length 0: nothing stands here. */
typedef struct {
    uint32_t hash;
    uint32_t length;
    int32_t route;
    int32_t place;
    uint8_t key[112];
} gg_slot;

/* Slots of names; mask + 1 of them, a power of two. */
typedef struct {
    gg_slot *slots;
    uint32_t mask;
} gg_table;

/* A key of a payload: what is wanted of its value, and where it goes, one entry for each row. */
typedef struct {
    const uint8_t *name;
    uint32_t length;
    int32_t kind;
    int64_t factor;
    void *out;
} gg_key;

/* Payloads of one route; names: of devices, with their places. */
typedef struct {
    gg_key *keys;
    int32_t count;
    gg_table names;
} gg_route;

/* Topics that are known lead to a route, and to a place (-1: the payload names the device). Below: what was found. */
typedef struct {
    gg_table topics;
    gg_route *routes;
    int32_t rows_max;
    int32_t *origin;
    uint16_t *packet_ids;
    int64_t at;
    int32_t route;
    int32_t packet_id_count;
} gg_decoder;

int32_t gg_mqtt_learn(gg_table *table, const uint8_t *key, uint32_t length, int32_t route, int32_t place);
int32_t gg_mqtt_decode(const uint8_t *data, int64_t at, int64_t end, int32_t five, int64_t size_max, gg_decoder *d);

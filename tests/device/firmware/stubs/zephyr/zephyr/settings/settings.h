/* A stand-in for tests, see ../../../README.md. */
#ifndef STUB_ZEPHYR_SETTINGS_H
#define STUB_ZEPHYR_SETTINGS_H
#include <stddef.h>
#include <sys/types.h>
typedef ssize_t (*settings_read_cb)(void *cb_arg, void *data, size_t len);
struct settings_handler_static {
  const char *name;
  int (*h_get)(const char *key, char *val, int val_len_max);
  int (*h_set)(const char *key, size_t len, settings_read_cb read_cb, void *cb_arg);
  int (*h_commit)(void);
  int (*h_export)(int (*export_func)(const char *name, const void *val, size_t val_len));
};
#define SETTINGS_STATIC_HANDLER_DEFINE(hname, tree, get, set, commit, export) \
  const struct settings_handler_static settings_handler_##hname = {tree, get, set, commit, export}
int settings_subsys_init(void);
int settings_load_subtree(const char *subtree);
int settings_save_one(const char *name, const void *value, size_t val_len);
#endif

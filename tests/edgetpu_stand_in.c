/* A stand-in for libedgetpu: the functions that edgekit and TensorFlow Lite call, without a device.
 *
 * It lists as many devices as STAND_IN_DEVICES says, reports the runtime version of
 * STAND_IN_RUNTIME, and its delegate takes every edgetpu-custom-op and computes zeros. The
 * structures are the beginnings of those in TensorFlow Lite's C interface (2.19, common.h).
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct edgetpu_device { int type; const char *path; };
typedef struct { int size; int data[]; } IntArray;
typedef struct Context Context;
typedef struct Tensor {
  int type; void *data; IntArray *dims; float scale; int32_t zero_point;
  int allocation_type; size_t bytes;
  uint8_t more[96];
} Tensor;
typedef struct { IntArray *inputs, *outputs; } Node;
typedef struct Registration {
  void *(*init)(Context *, const char *, size_t);
  void (*free)(Context *, void *);
  int (*prepare)(Context *, Node *);
  int (*invoke)(Context *, Node *);
  const char *(*profiling_string)(const Context *, const Node *);
  int32_t builtin_code;
  const char *custom_name;
  int version;
  void *registration_external;
  void *async_kernel;
  uint64_t inplace_operator;
} Registration;
typedef struct Delegate {
  void *data;
  int (*prepare)(Context *, struct Delegate *);
  void *copy_from, *copy_to, *free_handle;
  int64_t flags;
  void *opaque;
} Delegate;
struct Context {
  size_t tensors_size;
  int (*execution_plan)(Context *, IntArray **);
  Tensor *tensors;
  void *impl;
  void *resize, *report, *add;
  int (*node)(Context *, int, Node **, Registration **);
  int (*replace)(Context *, Registration, const IntArray *, Delegate *);
};

const char *edgetpu_version(void) {
  static char text[80];
  const char *version = getenv("STAND_IN_RUNTIME");
  snprintf(text, sizeof text, "BuildLabel(stand-in), RuntimeVersion(%s)", version ? version : "14");
  return text;
}

struct edgetpu_device *edgetpu_list_devices(size_t *count) {
  const char *text = getenv("STAND_IN_DEVICES");
  *count = text ? (size_t)atoi(text) : 1;
  struct edgetpu_device *list = calloc(*count + 1, sizeof *list);
  for (size_t i = 0; i < *count; i++) {
    list[i].type = 1;
    list[i].path = "/sys/bus/usb/devices/4-1";
  }
  return list;
}

void edgetpu_free_devices(struct edgetpu_device *list) { free(list); }

static int k_prepare(Context *context, Node *node) { (void)context; (void)node; return 0; }
static int k_invoke(Context *context, Node *node) { (void)context; (void)node; return 0; }
static void *k_init(Context *context, const char *buffer, size_t length) {
  (void)context; (void)buffer; (void)length;
  return NULL;
}
static void k_free(Context *context, void *data) { (void)context; (void)data; }

static int prepare(Context *context, Delegate *delegate) {
  IntArray *plan;
  if (context->execution_plan(context, &plan)) return 1;
  IntArray *taken = calloc(1, sizeof *taken + sizeof(int) * (size_t)plan->size);
  for (int i = 0; i < plan->size; i++) {
    Node *node;
    Registration *kernel;
    if (context->node(context, plan->data[i], &node, &kernel)) return 1;
    if (kernel->custom_name && !strcmp(kernel->custom_name, "edgetpu-custom-op"))
      taken->data[taken->size++] = plan->data[i];
  }
  Registration ours;
  memset(&ours, 0, sizeof ours);
  ours.init = k_init;
  ours.free = k_free;
  ours.prepare = k_prepare;
  ours.invoke = k_invoke;
  ours.builtin_code = 51; /* DELEGATE */
  ours.custom_name = "EdgeTpuStandIn";
  ours.version = 1;
  int status = context->replace(context, ours, taken, delegate);
  free(taken);
  return status;
}

Delegate *tflite_plugin_create_delegate(char **keys, char **values, size_t count,
                                        void (*report)(const char *)) {
  (void)keys; (void)values; (void)count; (void)report;
  const char *text = getenv("STAND_IN_DEVICES");
  if (text && !atoi(text)) return NULL;
  Delegate *delegate = calloc(1, sizeof *delegate);
  delegate->prepare = prepare;
  delegate->flags = 1; /* dynamic tensors: the custom operator is not prepared before it is taken */
  return delegate;
}

void tflite_plugin_destroy_delegate(Delegate *delegate) { free(delegate); }

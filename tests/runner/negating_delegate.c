// An external delegate of TFLite that computes NEG on float32, alone or in a chain; with the option "idle" it takes nothing.
// The structures are those of tensorflow/lite/core/c/common.h (2.14 to 2.20), as far as they are used here.
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define NEG 59

typedef struct { int size; int data[]; } IntArray;

typedef struct {
  int type;
  float* data;
  IntArray* dims;
  struct { float scale; int32_t zero_point; } params;
  int allocation_type;
  size_t bytes;
  const void* allocation;
  const char* name;
  void* delegate;
  int buffer_handle;
  bool data_is_stale, is_variable;
  struct { int type; void* params; } quantization;
  void* sparsity;
  const IntArray* dims_signature;
} Tensor;

typedef struct { IntArray *inputs, *outputs, *intermediates, *temporaries; void* user_data; } Node;

typedef struct Context Context;
typedef struct Delegate Delegate;

typedef struct {
  void* (*init)(Context*, const char*, size_t);
  void (*free)(Context*, void*);
  int (*prepare)(Context*, Node*);
  int (*invoke)(Context*, Node*);
  const char* (*profiling_string)(const Context*, const Node*);
  int32_t builtin_code;
  const char* custom_name;
  int version;
  void *external, *async_kernel;
  uint64_t inplace_operator;
} Registration;

struct Context {
  size_t tensors_size;
  int (*get_execution_plan)(Context*, IntArray**);
  Tensor* tensors;
  void* impl;
  int (*resize_tensor)(Context*, Tensor*, IntArray*);
  void (*report_error)(Context*, const char*, ...);
  int (*add_tensors)(Context*, int, int*);
  int (*get_node_and_registration)(Context*, int, Node**, Registration**);
  int (*replace_nodes)(Context*, Registration, const IntArray*, Delegate*);
};

struct Delegate {
  void* data;
  int (*prepare)(Context*, Delegate*);
  void *copy_from, *copy_to, *free_handle;
  int64_t flags;
  void* builder;
};

typedef struct { Delegate* delegate; IntArray *nodes, *inputs, *outputs; } Params;

static void* init(Context* context, const char* buffer, size_t length) {
  float* sign = malloc(sizeof(float));
  *sign = ((const Params*)buffer)->nodes->size % 2 ? -1.0f : 1.0f;
  return sign;
}

static void done(Context* context, void* sign) { free(sign); }

static int ready(Context* context, Node* node) { return 0; }

static int invoke(Context* context, Node* node) {
  Tensor *x = &context->tensors[node->inputs->data[0]], *y = &context->tensors[node->outputs->data[0]];
  for (size_t i = 0; i < y->bytes / sizeof(float); i++) y->data[i] = *(float*)node->user_data * x->data[i];
  return 0;
}

static int prepare(Context* context, Delegate* delegate) {
  IntArray* plan;
  if (delegate->data || context->get_execution_plan(context, &plan)) return delegate->data ? 0 : 1;
  IntArray* taken = malloc(sizeof(int) * (plan->size + 1));
  taken->size = 0;
  for (int i = 0; i < plan->size; i++) {
    Node* node;
    Registration* registration;
    if (context->get_node_and_registration(context, plan->data[i], &node, &registration)) return 1;
    if (registration->builtin_code == NEG) taken->data[taken->size++] = plan->data[i];
  }
  Registration kernel = {init, done, ready, invoke, NULL, 51, "NegatingDelegate", 1, NULL, NULL, 0};
  int status = taken->size ? context->replace_nodes(context, kernel, taken, delegate) : 0;
  free(taken);
  return status;
}

Delegate* tflite_plugin_create_delegate(char** keys, char** values, size_t count, void (*report)(const char*)) {
  Delegate* delegate = calloc(1, sizeof(Delegate));
  delegate->prepare = prepare;
  for (size_t i = 0; i < count; i++) {
    if (!strcmp(keys[i], "idle")) delegate->data = delegate;
  }
  return delegate;
}

void tflite_plugin_destroy_delegate(Delegate* delegate) { free(delegate); }

/* Predictions of a model file of ssvi_jax, without Python and without JAX.
 *
 * Every function returns SSVI_OK or an error, whose text ssvi_error() gives. A model may
 * be used by several threads; they take turns. A child of fork() opens it again: the
 * threads of its parent's model are not there.
 */
#ifndef SSVI_H
#define SSVI_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define SSVI_API __declspec(dllexport)
#else
#define SSVI_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ssvi_model ssvi_model;

enum {
  SSVI_OK = 0,
  SSVI_NO_FILE = 1,     /* it cannot be read */
  SSVI_BAD_FILE = 2,    /* not a whole, unaltered model file with a graph */
  SSVI_BAD_CALL = 3,    /* an argument that is not allowed */
  SSVI_NOT_FINITE = 4,  /* an output that is not finite */
  SSVI_NO_MEMORY = 5,
  SSVI_INTERNAL = 6     /* a defect of the library */
};

enum {
  SSVI_MEAN = 0,    /* one pass with the means of the weights */
  SSVI_SAMPLES = 1, /* an average over draws of the weights */
  SSVI_MOMENTS = 2  /* one pass of means and variances, an approximation */
};

enum { SSVI_MAX_RANK = 8 };

typedef struct {
  int32_t rank; /* of one input */
  int32_t is_random; /* whether two draws differ */
  int64_t shape[SSVI_MAX_RANK]; /* of one input */
  int64_t inputs; /* numbers of one input */
  int64_t classes;
} ssvi_info;

typedef struct {
  int32_t mode;
  int32_t threads; /* 1 to 1024, 0: one a processor; fewer where no more can begin */
  int64_t samples; /* of SSVI_SAMPLES: 1 to 1048576 */
  /* Of SSVI_SAMPLES: the same seed, the same bits. A model keeps the first draws of its
     last seed, up to 64 MB, so that the next call need not make them. */
  uint64_t seed;
} ssvi_options;

/* *model is null where they fail. */
SSVI_API int ssvi_open(const char* path, ssvi_model** model);
/* The bytes are copied. */
SSVI_API int ssvi_open_memory(const void* data, size_t size, ssvi_model** model);
SSVI_API void ssvi_close(ssvi_model* model); /* once; null is allowed */

SSVI_API int ssvi_describe(const ssvi_model* model, ssvi_info* info);

/* Predicts n inputs, which lie one after the other in the order of info.shape. Numbers
 * that are not finite are refused; where the network was trained on images of bytes, so
 * is what is no whole number from 0 to 255.
 *
 * probabilities: [n][classes]; entropy and mutual_information, in nats: [n], or null.
 */
SSVI_API int ssvi_predict(ssvi_model* model, const float* x, int64_t n,
                          const ssvi_options* options, float* probabilities,
                          float* entropy, float* mutual_information);

/* What was wrong with this thread's last call that failed. */
SSVI_API const char* ssvi_error(void);

#ifdef __cplusplus
}
#endif

#endif

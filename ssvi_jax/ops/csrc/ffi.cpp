// The passes as XLA custom calls.
//
// Arrays of images are logical [n][h][w][c] and lie in memory as [h][w][c][n]. Every
// handler takes the attributes
//   window   int64 [6]: kernel rows and columns, strides, zeros above and left;
//   isa      "" for the best of this processor, or a name (for tests);
//   threads  0 for XLA's pool, or how many threads may work (for tests);
//   poison   whether outputs are filled with NaN first (for tests).

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <exception>
#include <limits>
#include <new>
#include <string>
#include <string_view>
#include <thread>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "passes.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

using Images = ffi::BufferR4<ffi::F32>;
using Vector = ffi::BufferR1<ffi::F32>;
using Index = ffi::BufferR1<ffi::S32>;
using Key = ffi::BufferR1<ffi::U32>;
using Table = ffi::BufferR2<ffi::S32>;
using Lines = ffi::BufferR2<ffi::F32>;
template <typename T>
using Out = ffi::Result<T>;
using Window = ffi::Span<const int64_t>;

struct Options {
  ffi::ThreadPool pool;
  std::string_view isa;
  int64_t threads;
  bool poison;
};

template <typename Dimensions>
ssvi::Shape make_shape(const Dimensions& x, const Dimensions& y, const Window& window) {
  return {x[0],      x[3],      x[1],      x[2],      y[3],      y[1],     y[2],
          window[0], window[1], window[2], window[3], window[4], window[5]};
}

// Asks for large pages under a large output. XLA takes fresh memory for every run of a
// program; in 4 KiB pages it is faulted in bit by bit and misses the TLB ever after.
template <typename Buffer>
void use_huge_pages(Out<Buffer>& out) {
#if defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = uintptr_t{1} << 21;
  const auto begin = reinterpret_cast<uintptr_t>(out->untyped_data());
  const uintptr_t low = (begin + kPage - 1) / kPage * kPage;
  const uintptr_t high = (begin + out->size_bytes()) / kPage * kPage;
  if (low < high) madvise(reinterpret_cast<void*>(low), high - low, MADV_HUGEPAGE);
#endif
}

template <typename Buffer>
void poison(Out<Buffer>& out) {
  std::fill_n(out->typed_data(), out->element_count(),
              std::numeric_limits<float>::quiet_NaN());
}

// Runs a pass; every error becomes one that XLA raises in Python.
template <typename Body>
ffi::Error guarded(const Options& options, const Window& window, Body&& body) {
  if (window.size() != 6 || *std::min_element(window.begin(), window.begin() + 4) < 1)
    return ffi::Error::InvalidArgument(
        "window: needs the kernel's rows and columns, two strides, two paddings");
  const ssvi::Isa* isa = ssvi::find_isa(std::string(options.isa).c_str());
  if (isa == nullptr)
    return ffi::Error::InvalidArgument("this processor does not run " +
                                       std::string(options.isa));
  ffi::ThreadPool pool = options.pool;
  ssvi::Machine machine{isa, {}};
  const int64_t threads = options.threads > 0 ? options.threads : pool.num_threads();
  machine.pool.threads = static_cast<int>(std::max<int64_t>(1, threads));
  machine.pool.schedule = [&pool](std::function<void()> work) {
    pool.Schedule([work] { work(); });
  };
  try {
    body(machine);
  } catch (const ssvi::BadIndex&) {
    return ffi::Error::InvalidArgument("index: has entries outside of the kernel");
  } catch (const ssvi::BadList&) {
    return ffi::Error::InvalidArgument("list: made for images of another shape");
  } catch (const ssvi::BadNorm&) {
    return ffi::Error::InvalidArgument("norm: needs y of g's shape, four lines");
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "out of memory");
  } catch (const std::exception& error) {
    return ffi::Error::Internal(error.what());
  }
  return ffi::Error::Success();
}

ssvi::Kernel make_kernel(const Index& index, const float* mean, const float* sigma) {
  return {index.typed_data(), mean, sigma,
          static_cast<int64_t>(index.element_count())};
}

// A list for the mean pass lies in arrays of int32: three numbers an entry.
void check_list(const ssvi::Shape& shape, const Table& entries, const Index& table) {
  static_assert(sizeof(ssvi::Entry) == 3 * sizeof(int32_t));
  if (entries.dimensions()[1] != 3 ||
      static_cast<int64_t>(table.element_count()) != ssvi::mean_table(shape))
    throw ssvi::BadList();
}

// The data of an optional operand: one of no elements stands for none.
template <typename Buffer>
const float* data_or_null(const Buffer& buffer) {
  return buffer.element_count() == 0 ? nullptr : buffer.typed_data();
}

// The batch norm behind a layer, if there is one: operands of no elements are none.
ssvi::NormGradient make_norm(const Images& g, const Images& y, const Lines& line) {
  if (y.element_count() == 0) return {};
  const auto shape = g.dimensions(), lines = line.dimensions();
  if (!std::equal(shape.begin(), shape.end(), y.dimensions().begin()) ||
      lines[0] != 4 || lines[1] != shape[3])
    throw ssvi::BadNorm();
  return {y.typed_data(), line.typed_data()};
}

ffi::Error sample(ffi::ThreadPool pool, Images x, Vector mean, Vector sigma,
                  Index index, Key key, Out<Images> y, Out<Images> slope,
                  Out<Vector> sum, Out<Vector> squares, Window window,
                  std::string_view isa, int64_t threads, bool poisoned) {
  if (key.element_count() != 4)
    return ffi::Error::InvalidArgument("key: needs two seeds, images, the first image");
  return guarded({pool, isa, threads, poisoned}, window, [&](const auto& machine) {
    use_huge_pages(y), use_huge_pages(slope);
    if (poisoned) poison(y), poison(slope), poison(sum), poison(squares);
    ssvi::sample(machine, make_shape(x.dimensions(), y->dimensions(), window),
                 make_kernel(index, mean.typed_data(), sigma.typed_data()),
                 x.typed_data(), key.typed_data(), y->typed_data(),
                 slope->typed_data(), sum->typed_data(), squares->typed_data());
  });
}

ffi::Error sample_input(ffi::ThreadPool pool, Images g, Images slope, Images y,
                        Lines line, Images x, Vector mean, Vector sigma, Index index,
                        Out<Images> dx, Window window, std::string_view isa, int64_t threads,
                        bool poisoned) {
  return guarded({pool, isa, threads, poisoned}, window, [&](const auto& machine) {
    use_huge_pages(dx);
    if (poisoned) poison(dx);
    ssvi::input_gradient(machine, make_shape(x.dimensions(), g.dimensions(), window),
                         make_kernel(index, mean.typed_data(), sigma.typed_data()),
                         g.typed_data(), slope.typed_data(), make_norm(g, y, line),
                         x.typed_data(), dx->typed_data());
  });
}

ffi::Error sample_weights(ffi::ThreadPool pool, Images g, Images slope, Images y,
                          Lines line, Images x, Index index, Out<Vector> dmean, Out<Vector> dvariance,
                          Window window, std::string_view isa, int64_t threads,
                          bool poisoned) {
  return guarded({pool, isa, threads, poisoned}, window, [&](const auto& machine) {
    if (poisoned) poison(dmean), poison(dvariance);
    ssvi::weight_gradient(machine, make_shape(x.dimensions(), g.dimensions(), window),
                          index.typed_data(), index.element_count(), x.typed_data(),
                          g.typed_data(), slope.typed_data(), make_norm(g, y, line),
                          dmean->typed_data(), dvariance->typed_data());
  });
}

ffi::Error sample_gradients(ffi::ThreadPool pool, Images g, Images slope, Images y,
                            Lines line, Images x, Vector mean, Vector sigma, Index index, Out<Images> dx,
                            Out<Vector> dmean, Out<Vector> dvariance, Window window,
                            std::string_view isa, int64_t threads, bool poisoned) {
  return guarded({pool, isa, threads, poisoned}, window, [&](const auto& machine) {
    use_huge_pages(dx);
    if (poisoned) poison(dx), poison(dmean), poison(dvariance);
    ssvi::gradients(machine, make_shape(x.dimensions(), g.dimensions(), window),
                    make_kernel(index, mean.typed_data(), sigma.typed_data()),
                    g.typed_data(), slope.typed_data(), make_norm(g, y, line),
                    x.typed_data(), dx->typed_data(), dmean->typed_data(),
                    dvariance->typed_data());
  });
}

ffi::Error list_mean(ffi::ThreadPool pool, Vector mean, Index index, Vector scale,
                     Out<Table> entries, Out<Index> table, Window x_shape, Window y_shape,
                     Window window, std::string_view isa, int64_t threads, bool) {
  return guarded({pool, isa, threads, false}, window, [&](const auto& machine) {
    const ssvi::Shape shape = make_shape(x_shape, y_shape, window);
    check_list(shape, *entries, *table);
    ssvi::Kernel kernel = make_kernel(index, mean.typed_data(), nullptr);
    kernel.scale = data_or_null(scale);
    auto* list = reinterpret_cast<ssvi::Entry*>(entries->typed_data());
    ssvi::list_mean(machine, shape, kernel, list, table->typed_data());
  });
}

ffi::Error mean(ffi::ThreadPool pool, Images x, Table entries, Index table, Vector bias,
                Images residual, Out<Images> y, bool relu, Window window,
                std::string_view isa, int64_t threads, bool poisoned) {
  return guarded({pool, isa, threads, poisoned}, window, [&](const auto& machine) {
    use_huge_pages(y);
    if (poisoned) poison(y);
    const ssvi::Shape shape = make_shape(x.dimensions(), y->dimensions(), window);
    check_list(shape, entries, table);
    const auto* list = reinterpret_cast<const ssvi::Entry*>(entries.typed_data());
    ssvi::mean(machine, shape, list, table.typed_data(), entries.dimensions()[0],
               x.typed_data(), {data_or_null(bias), data_or_null(residual), relu},
               y->typed_data());
  });
}

ffi::Error mean_input(ffi::ThreadPool pool, Images g, Vector mean, Index index,
                      Out<Images> dx, Window window, std::string_view isa,
                      int64_t threads, bool poisoned) {
  return guarded({pool, isa, threads, poisoned}, window, [&](const auto& machine) {
    use_huge_pages(dx);
    if (poisoned) poison(dx);
    ssvi::input_gradient(machine, make_shape(dx->dimensions(), g.dimensions(), window),
                         make_kernel(index, mean.typed_data(), nullptr), g.typed_data(),
                         nullptr, {}, nullptr, dx->typed_data());
  });
}

ffi::Error mean_weights(ffi::ThreadPool pool, Images x, Images g, Index index,
                        Out<Vector> dmean, Window window, std::string_view isa,
                        int64_t threads, bool poisoned) {
  return guarded({pool, isa, threads, poisoned}, window, [&](const auto& machine) {
    if (poisoned) poison(dmean);
    ssvi::weight_gradient(machine, make_shape(x.dimensions(), g.dimensions(), window),
                          index.typed_data(), index.element_count(), x.typed_data(),
                          g.typed_data(), nullptr, {}, dmean->typed_data(), nullptr);
  });
}

ffi::Error mean_gradients(ffi::ThreadPool pool, Images g, Images x, Vector mean,
                          Index index, Out<Images> dx, Out<Vector> dmean, Window window,
                          std::string_view isa, int64_t threads, bool poisoned) {
  return guarded({pool, isa, threads, poisoned}, window, [&](const auto& machine) {
    use_huge_pages(dx);
    if (poisoned) poison(dx), poison(dmean);
    ssvi::gradients(machine, make_shape(x.dimensions(), g.dimensions(), window),
                    make_kernel(index, mean.typed_data(), nullptr), g.typed_data(),
                    nullptr, {}, x.typed_data(), dx->typed_data(),
                    dmean->typed_data(), nullptr);
  });
}

ffi::Error dense_gradient(ffi::ThreadPool pool, Images x, Images g, Out<Vector> sums,
                          Window window, std::string_view isa, int64_t threads,
                          bool poisoned) {
  return guarded({pool, isa, threads, poisoned}, window, [&](const auto& machine) {
    if (poisoned) poison(sums);
    const ssvi::Shape shape = make_shape(x.dimensions(), g.dimensions(), window);
    if (static_cast<int64_t>(sums->element_count()) !=
        shape.kh * shape.kw * shape.ci * shape.co)
      throw ssvi::BadIndex();
    ssvi::dense_gradient(machine, shape, x.typed_data(), g.typed_data(),
                         sums->typed_data());
  });
}

ffi::Error comoment(ffi::ThreadPool pool, Images a, Images b, Vector center,
                    Vector factor, Vector shift, Out<Vector> sum, Out<Vector> product,
                    Window window, std::string_view isa, int64_t threads,
                    bool poisoned) {
  return guarded({pool, isa, threads, poisoned}, window, [&](const auto& machine) {
    if (poisoned) poison(sum), poison(product);
    const auto shape = a.dimensions();
    const ssvi::Moments moments{shape[3],
                                shape[0],
                                a.typed_data(),
                                b.typed_data(),
                                data_or_null(center),
                                data_or_null(factor),
                                data_or_null(shift)};
    ssvi::comoment(machine, moments, shape[1] * shape[2], sum->typed_data(),
                   product->typed_data());
  });
}

}  // namespace

#define SSVI_ATTRIBUTES         \
  .Attr<Window>("window")       \
      .Attr<std::string_view>("isa") \
      .Attr<int64_t>("threads") \
      .Attr<bool>("poison")

XLA_FFI_DEFINE_HANDLER_SYMBOL(ssvi_sample, sample,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Images>()  // x
                                  .Arg<Vector>()  // mean
                                  .Arg<Vector>()  // sigma
                                  .Arg<Index>()
                                  .Arg<Key>()
                                  .Ret<Images>()  // y
                                  .Ret<Images>()  // slope
                                  .Ret<Vector>()  // sum
                                  .Ret<Vector>()  // squares
                                      SSVI_ATTRIBUTES);

XLA_FFI_DEFINE_HANDLER_SYMBOL(ssvi_sample_input, sample_input,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Images>()  // g
                                  .Arg<Images>()  // slope
                                  .Arg<Images>()  // y, or of no elements
                                  .Arg<Lines>()   // of the batch norm behind y
                                  .Arg<Images>()  // x
                                  .Arg<Vector>()  // mean
                                  .Arg<Vector>()  // sigma
                                  .Arg<Index>()
                                  .Ret<Images>()  // dx
                                      SSVI_ATTRIBUTES);

XLA_FFI_DEFINE_HANDLER_SYMBOL(ssvi_sample_weights, sample_weights,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Images>()  // g
                                  .Arg<Images>()  // slope
                                  .Arg<Images>()  // y, or of no elements
                                  .Arg<Lines>()   // of the batch norm behind y
                                  .Arg<Images>()  // x
                                  .Arg<Index>()
                                  .Ret<Vector>()  // dmean
                                  .Ret<Vector>()  // dvariance
                                      SSVI_ATTRIBUTES);

XLA_FFI_DEFINE_HANDLER_SYMBOL(ssvi_sample_gradients, sample_gradients,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Images>()  // g
                                  .Arg<Images>()  // slope
                                  .Arg<Images>()  // y, or of no elements
                                  .Arg<Lines>()   // of the batch norm behind y
                                  .Arg<Images>()  // x
                                  .Arg<Vector>()  // mean
                                  .Arg<Vector>()  // sigma
                                  .Arg<Index>()
                                  .Ret<Images>()  // dx
                                  .Ret<Vector>()  // dmean
                                  .Ret<Vector>()  // dvariance
                                      SSVI_ATTRIBUTES);

XLA_FFI_DEFINE_HANDLER_SYMBOL(ssvi_list_mean, list_mean,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Vector>()  // mean
                                  .Arg<Index>()
                                  .Arg<Vector>()  // scale, or of no elements
                                  .Ret<Table>()   // entries
                                  .Ret<Index>()   // table
                                  .Attr<Window>("x_shape")
                                  .Attr<Window>("y_shape")
                                      SSVI_ATTRIBUTES);

XLA_FFI_DEFINE_HANDLER_SYMBOL(ssvi_mean, mean,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Images>()  // x
                                  .Arg<Table>()   // entries
                                  .Arg<Index>()   // table
                                  .Arg<Vector>()  // bias, or of no elements
                                  .Arg<Images>()  // residual, or of no elements
                                  .Ret<Images>()  // y
                                  .Attr<bool>("relu")
                                      SSVI_ATTRIBUTES);

XLA_FFI_DEFINE_HANDLER_SYMBOL(ssvi_mean_input, mean_input,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Images>()  // g
                                  .Arg<Vector>()  // mean
                                  .Arg<Index>()
                                  .Ret<Images>()  // dx
                                      SSVI_ATTRIBUTES);

XLA_FFI_DEFINE_HANDLER_SYMBOL(ssvi_mean_weights, mean_weights,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Images>()  // x
                                  .Arg<Images>()  // g
                                  .Arg<Index>()
                                  .Ret<Vector>()  // dmean
                                      SSVI_ATTRIBUTES);

XLA_FFI_DEFINE_HANDLER_SYMBOL(ssvi_mean_gradients, mean_gradients,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Images>()  // g
                                  .Arg<Images>()  // x
                                  .Arg<Vector>()  // mean
                                  .Arg<Index>()
                                  .Ret<Images>()  // dx
                                  .Ret<Vector>()  // dmean
                                      SSVI_ATTRIBUTES);

XLA_FFI_DEFINE_HANDLER_SYMBOL(ssvi_dense_gradient, dense_gradient,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Images>()  // x
                                  .Arg<Images>()  // g
                                  .Ret<Vector>()  // of every weight
                                      SSVI_ATTRIBUTES);

XLA_FFI_DEFINE_HANDLER_SYMBOL(ssvi_comoment, comoment,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Images>()  // a
                                  .Arg<Images>()  // b
                                  .Arg<Vector>()  // center
                                  .Arg<Vector>()  // factor
                                  .Arg<Vector>()  // shift
                                  .Ret<Vector>()  // sum
                                  .Ret<Vector>()  // product
                                      SSVI_ATTRIBUTES);

// The instruction set of a name ("": what is used by default): its own name, its lanes and,
// for a benchmark, rounds of 12 vector multiply-adds. And the interface that all of it was
// compiled for.
extern "C" {
int ssvi_ffi_major() { return XLA_FFI_API_MAJOR; }
int ssvi_ffi_minor() { return XLA_FFI_API_MINOR; }
const char* ssvi_isa(const char* name) {
  const ssvi::Isa* isa = ssvi::find_isa(name);
  return isa == nullptr ? "" : isa->name;
}
int ssvi_lanes(const char* name) {
  const ssvi::Isa* isa = ssvi::find_isa(name);
  return isa == nullptr ? 0 : isa->lanes;
}
double ssvi_multiply_adds(const char* name, int64_t rounds) {
  const ssvi::Isa* isa = ssvi::find_isa(name);
  return isa == nullptr ? 0.0 : isa->multiply_adds(rounds);
}
}

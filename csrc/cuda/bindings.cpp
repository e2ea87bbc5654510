// Python bindings of the CUDA side: device addresses and the current stream go in as integers; Python has checked them.
#include "../bindings.h"

#include "kernels.h"

namespace py = pybind11;
using namespace robustok;

PYBIND11_MODULE(_cuda, m) {
    const auto released = py::call_guard<py::gil_scoped_release>();
    m.def("nearest_shared_bytes", &nearest_shared_bytes);
    m.def("select_shared_bytes", &select_shared_bytes);
    m.def("nearest",
          [](uintptr_t u, uintptr_t scaled, uintptr_t errors, int64_t N, uintptr_t tiles, uintptr_t rows, int K, int D,
             int width, bool product, uintptr_t out, uintptr_t tied, uintptr_t tied_count, uintptr_t stream) {
              nearest(at<float>(u), at<float>(scaled), at<float>(errors), N, at<void>(tiles), at<float>(rows), K, D,
                      width, product, at<int64_t>(out), at<int>(tied), at<int>(tied_count), at<void>(stream));
          },
          released);
    m.def("select",
          [](uintptr_t u, uintptr_t scaled, uintptr_t errors, int64_t N, uintptr_t tiles, uintptr_t rows, int K, int D,
             int width, bool product, uintptr_t ranks, uintptr_t out, uintptr_t scores, int blocks, uintptr_t stream) {
              select(at<float>(u), at<float>(scaled), at<float>(errors), N, at<void>(tiles), at<float>(rows), K, D,
                     width, product, at<int>(ranks), at<int64_t>(out), at<void>(scores), blocks, at<void>(stream));
          },
          released);
}

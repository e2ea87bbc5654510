// Python bindings: addresses of contiguous float32 / int32 / int64 arrays go in as integers; Python has checked them.
#include "bindings.h"

#include <pybind11/stl.h>

#include "host.h"
#include "philox.h"

namespace py = pybind11;
using namespace robustok;
using namespace py::literals;

namespace {

void draw_ranks(uintptr_t ids, int64_t images, int64_t tokens, int64_t threshold, int64_t delta, uint64_t seed,
                uintptr_t out, int threads) {
    const Draw draw = {threshold, delta, seed};
    parallel(threads, images, [=](int64_t b, int) {
        for (int64_t t = 0; t < tokens; ++t) at<int32_t>(out)[b * tokens + t] = draw_rank(draw, at<int64_t>(ids)[b], t);
    });
}

}  // namespace

PYBIND11_MODULE(_C, m) {
    const auto released = py::call_guard<py::gil_scoped_release>();
    m.def("instruction_sets", [] {  // that this machine has, the fastest first
        std::vector<std::string> names;
        for (const Scorer* scorer : scorers()) names.push_back(scorer->name);
        return names;
    });
    m.def("instruction_set", [] { return scorer_in_use()->name; });
    m.def("use_instruction_set", [](const std::string& name) {  // not while an operation runs
        for (const Scorer* scorer : scorers())
            if (scorer->name == name) return void(scorer_in_use() = scorer);
        throw std::invalid_argument("instruction set: found '" + name + "', expected one of instruction_sets()");
    });
    m.def("draw_ranks", &draw_ranks, released);
    m.def("unit_rows",
          [](uintptr_t in, uintptr_t out, int64_t rows, int D, int threads) {
              unit_rows(at<float>(in), at<float>(out), rows, D, threads);
          },
          released);
    m.def("select",
          [](uintptr_t u, int64_t N, uintptr_t codes, int K, int D, uintptr_t ranks, uintptr_t nearest,
             uintptr_t chosen, int threads, bool product) {
              select(at<float>(u), N, at<float>(codes), K, D, at<int32_t>(ranks), at<int64_t>(nearest),
                     at<int64_t>(chosen), threads, product);
          },
          released, "u"_a, "N"_a, "codes"_a, "K"_a, "D"_a, "ranks"_a, "nearest"_a, "chosen"_a, "threads"_a,
          "product"_a = false);
    m.def("neighbors",
          [](uintptr_t u, int64_t N, uintptr_t codes, int K, int D, int delta, uintptr_t out, int threads,
             bool product) {
              neighbors(at<float>(u), N, at<float>(codes), K, D, delta, at<int64_t>(out), threads, product);
          },
          released, "u"_a, "N"_a, "codes"_a, "K"_a, "D"_a, "delta"_a, "out"_a, "threads"_a, "product"_a = false);
    m.def("straight_through",
          [](uintptr_t u, int64_t N, int D, uintptr_t codes, uintptr_t indices, uintptr_t out, int threads) {
              return straight_through(at<float>(u), N, D, at<float>(codes), at<int64_t>(indices), at<float>(out),
                                      threads);
          },
          released);
}

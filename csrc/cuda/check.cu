// CUDA's status codes as exceptions.
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "kernels.h"

namespace robustok {

void check(int status) {
    if (status == cudaSuccess) return;
    const auto error = static_cast<cudaError_t>(status);
    throw std::runtime_error(std::string("robustok._cuda: ") + cudaGetErrorString(error));
}

}  // namespace robustok

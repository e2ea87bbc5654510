// What both extension modules bind with.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

namespace robustok {

// A pointer from the address that Python passes.
template <class T>
T* at(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

}  // namespace robustok

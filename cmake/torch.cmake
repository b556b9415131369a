# Finds the torch that the given Python imports and offers it as `moai_torch`.
#
# Not find_package(Torch): that looks for a CUDA toolkit whenever torch was built with CUDA, and moai
# compiles against the CPU half of either wheel. torch is located, not imported, so that a broken
# build of moai (which `import torch` autoloads) cannot stop its own repair.

find_package(Python 3.10 REQUIRED COMPONENTS Interpreter Development.Module)

execute_process(
  COMMAND "${Python_EXECUTABLE}" -c
    "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')"
  OUTPUT_VARIABLE MOAI_TORCH_DIR OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
if(NOT MOAI_TORCH_DIR)
  message(FATAL_ERROR "${Python_EXECUTABLE} has no torch\n"
    "  would work: pip install 'torch==2.11.*', or -DMOAI_TORCH=OFF for the torch-free rooms alone")
endif()

execute_process(
  COMMAND "${Python_EXECUTABLE}" -c "import importlib.metadata as m; print(m.version('torch'))"
  OUTPUT_VARIABLE MOAI_TORCH_VERSION OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
if(NOT MOAI_TORCH_VERSION MATCHES "^2\\.11\\.")
  message(FATAL_ERROR "moai builds against torch 2.11; found ${MOAI_TORCH_VERSION}\n"
    "  would work: pip install 'torch==2.11.*'")
endif()
message(STATUS "torch ${MOAI_TORCH_VERSION} in ${MOAI_TORCH_DIR}")

# torch ships the pybind11 that its own bindings were built with; ours must be the same one.
add_library(moai_torch INTERFACE)
target_include_directories(moai_torch SYSTEM INTERFACE
  "${MOAI_TORCH_DIR}/include" "${MOAI_TORCH_DIR}/include/torch/csrc/api/include")
target_compile_definitions(moai_torch INTERFACE
  _GLIBCXX_USE_CXX11_ABI=1 TORCH_EXTENSION_NAME=_C TORCH_API_INCLUDE_EXTENSION_H)
# c10::SmallVector, inlined, looks uninitialised to GCC; it is not.
target_compile_options(moai_torch INTERFACE $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>
  "-ffile-prefix-map=${MOAI_TORCH_DIR}/=torch/")
foreach(lib torch_python torch_cpu c10)
  target_link_libraries(moai_torch INTERFACE "${MOAI_TORCH_DIR}/lib/lib${lib}.so")
endforeach()

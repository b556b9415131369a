#include "record/source_line.h"

#include <Python.h>
#include <frameobject.h>
#include <pybind11/gil.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/graph_task.h>

#include "record/gil.h"

namespace moai::record {

namespace {

bool is_library(const std::string& file) {
  // Not any folder of the name: a checkout of ours, or somebody's project, may be called moai.
  for (const char* folder : {"/torch/", "-packages/moai/", "/python/moai/"}) {
    if (file.find(folder) != std::string::npos) return true;
  }
  return false;
}

}  // namespace

std::string source_line() {
  if (!Py_IsInitialized()) return {};
  // Taken here: torch's bindings let go of the GIL before they call an op.
  const pybind11::gil_scoped_acquire gil;
  PyFrameObject* frame = PyEval_GetFrame();
  Py_XINCREF(frame);
  std::string found;
  while (frame != nullptr) {
    PyCodeObject* code = PyFrame_GetCode(frame);
    PyObject* encoded = PyUnicode_EncodeFSDefault(code->co_filename);
    const std::string file = encoded != nullptr ? PyBytes_AS_STRING(encoded) : "";
    Py_XDECREF(encoded);
    Py_DECREF(code);
    PyErr_Clear();
    if (!is_library(file)) found = file + ":" + std::to_string(PyFrame_GetLineNumber(frame));
    PyFrameObject* outer = found.empty() ? PyFrame_GetBack(frame) : nullptr;
    Py_DECREF(frame);
    frame = outer;
  }
  return found;
}

bool in_backward() { return torch::autograd::get_current_graph_task_id() != -1; }

bool is_interrupt() {
  try {
    throw;
  } catch (const python_error& error) {
    const pybind11::gil_scoped_acquire gil;
    return PyErr_GivenExceptionMatches(error.type, PyExc_KeyboardInterrupt) != 0;
  } catch (...) {
    return false;
  }
}

void throw_on_signal() {
  if (!Py_IsInitialized()) return;
  const pybind11::gil_scoped_acquire gil;
  if (PyErr_CheckSignals() == 0) return;
  python_error error;
  error.persist();
  throw error;
}

}  // namespace moai::record

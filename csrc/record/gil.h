#pragma once

#include <Python.h>

namespace moai::record {

// Runs `f` with the GIL released, if this thread holds it.
template <typename F>
auto without_gil(const F& f) {
  struct Release {
    PyThreadState* state = Py_IsInitialized() && PyGILState_Check() ? PyEval_SaveThread() : nullptr;
    ~Release() {
      if (state != nullptr) PyEval_RestoreThread(state);
    }
  } release;
  return f();
}

// Throws python_error (KeyboardInterrupt) when a signal handler of Python raised. Only the main
// thread runs handlers; elsewhere it returns.
void throw_on_signal();

// Is the exception being handled Python's KeyboardInterrupt? That one is never an op's answer.
bool is_interrupt();

}  // namespace moai::record

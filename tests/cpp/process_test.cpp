// The one engine of a process.
#include <sys/wait.h>
#include <unistd.h>

#include <memory>
#include <string>

#include "catch.h"
#include "engine/engine.h"
#include "fake_backend.h"
#include "threads.h"

namespace moai::engine {
namespace {

void use_fake_backend() {
  configure(Kind{[](runtime::Device&, runtime::Transport*) {
    return std::make_unique<runtime::FakeBackend>(std::make_shared<runtime::Journal>());
  }});
}

TEST_CASE("an_engine_is_made_at_first_use_and_again_after_it_was_shut_down") {
  use_fake_backend();
  for (int times = 0; times < 2; ++times) {
    CHECK_FALSE(engine_exists());
    Engine* made[4] = {};
    in_threads(4, [&](int i) { made[i] = &engine(); });
    for (Engine* one : made) CHECK(one == &engine());
    CHECK(engine_exists());
    shut_down();
  }
  shut_down();  // there is none: nothing happens
  CHECK_FALSE(engine_exists());
}

TEST_CASE("a_forked_process_is_told_that_it_has_no_engine") {
  use_fake_backend();
  engine();
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  const pid_t child = fork();
  if (child == 0) {
    const std::string text = engine_exists() ? "it exists" : error_of([] { engine(); });
    shut_down();  // leaves the parent's alone
    const bool written = write(ends[1], text.data(), text.size()) == static_cast<ssize_t>(text.size());
    _exit(written ? 0 : 1);
  }
  int status = -1;
  REQUIRE(waitpid(child, &status, 0) == child);
  char text[300] = {};
  CHECK(read(ends[0], text, sizeof text - 1) > 0);
  close(ends[0]);
  close(ends[1]);
  CHECK(status == 0);
  CHECK(std::string(text) ==
        "moai run: this process was forked from one that uses moai, whose device it cannot reach\n"
        "  start it with multiprocessing's 'spawn' method, or leave moai tensors to the parent");
  CHECK(engine_exists());
  shut_down();
}

}  // namespace
}  // namespace moai::engine

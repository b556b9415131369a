#include "runtime/status_page.h"

#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "catch.h"
#include "ir/error.h"

namespace moai::runtime {
namespace {

namespace fs = std::filesystem;

struct Folder {
  fs::path path = fs::temp_directory_path() / concat("moai-status-test-", getpid());
  Folder() { fs::remove_all(path); }
  ~Folder() { fs::remove_all(path); }
  fs::path file() const { return path / std::to_string(getpid()); }
};

// As another process reads it.
struct Shown {
  explicit Shown(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    bytes.assign(std::istreambuf_iterator<char>(file), {});
    REQUIRE(bytes.size() >= sizeof(StatusLayout));
  }
  const StatusLayout& page() const { return *reinterpret_cast<const StatusLayout*>(bytes.data()); }
  std::vector<char> bytes;
};

TEST_CASE("a_page_shows_what_was_stored_and_goes_with_its_process") {
  const Folder folder;
  {
    const auto page = StatusPage::make(folder.path.string(), {"cpu:0", "cpu:1", "cpu:2"}, 1 << 20);
    REQUIRE(page);
    page->set_text("data 3");
    page->set_counts(7, 700);
    page->set_memory(2, 10, 20, 30);
    page->begin_run(1);
    page->end_run(2, 5, 6);
    const Shown shown(folder.file());
    const StatusLayout& seen = shown.page();
    CHECK(seen.magic == StatusLayout::kMagic);
    CHECK(std::memcmp(shown.bytes.data(), "moaismi1", 8) == 0);
    CHECK(seen.devices == 3);
    CHECK(std::string(seen.device[2].name) == "cpu:2");
    CHECK(seen.pid == getpid());
    CHECK(seen.began > 0);
    CHECK(seen.steps == 7);
    CHECK(seen.tokens == 700);
    CHECK(seen.text_version == 2);
    CHECK(std::string(seen.text) == "data 3");
    CHECK(seen.device[1].since_ns > 0);
    CHECK(seen.device[2].since_ns == 0);
    CHECK(seen.device[2].live_bytes == 10);
    CHECK(seen.device[2].limit_bytes == 1 << 20);
    CHECK(seen.device[2].busy_ns == 5);
    CHECK(seen.device[2].waited_ns == 6);
    CHECK(shown.bytes.size() == sizeof(StatusLayout) + 2 * sizeof(StatusLayout::Device));
    page->set_text(std::string(5000, 'x'));
    CHECK(std::string(Shown(folder.file()).page().text).size() == StatusLayout::kTextBytes - 1);
  }
  CHECK(fs::is_empty(folder.path));
}

TEST_CASE("what_a_process_left_behind_is_replaced") {
  const Folder folder;
  fs::create_directories(folder.path);
  fs::permissions(folder.path, fs::perms::owner_all);
  std::ofstream(folder.file()) << "left behind";
  REQUIRE(StatusPage::make(folder.path.string(), {"cpu:0"}, -1));
}

TEST_CASE("a_forked_child_leaves_its_parents_page_alone") {
  const Folder folder;
  auto page = StatusPage::make(folder.path.string(), {"cpu:0"}, -1);
  const pid_t child = fork();
  if (child == 0) {
    page.reset();
    _exit(0);
  }
  int status = 1;
  waitpid(child, &status, 0);
  CHECK(status == 0);
  CHECK(fs::exists(folder.file()));
}

TEST_CASE("a_folder_that_is_not_this_users_alone_is_not_used") {
  const Folder folder;
  CHECK_FALSE(StatusPage::make("", {"cpu:0"}, -1));
  CHECK_FALSE(StatusPage::make((folder.path / "no" / "such").string(), {"cpu:0"}, -1));
  fs::create_directories(folder.path);
  fs::permissions(folder.path, fs::perms::all);
  CHECK_FALSE(StatusPage::make(folder.path.string(), {"cpu:0"}, -1));
  fs::create_directory_symlink("/", folder.path / "link");
  CHECK_FALSE(StatusPage::make((folder.path / "link").string(), {"cpu:0"}, -1));
  std::ofstream(folder.path / "file") << "";
  CHECK_FALSE(StatusPage::make((folder.path / "file").string(), {"cpu:0"}, -1));
}

}  // namespace
}  // namespace moai::runtime

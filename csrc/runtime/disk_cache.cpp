#include "runtime/disk_cache.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <sstream>
#include <system_error>
#include <vector>

#include "ir/arg.h"
#include "ir/error.h"

namespace moai::runtime {

namespace {

namespace fs = std::filesystem;

// Note [What a kept file looks like]
// A line that says what the file is, with a hash of the rest and the question's length; the question; the
// answer. The hash refuses whatever a crash, a full disk or a copy left incomplete.
constexpr const char* kFirstWord = "moai-cache-1 ";

constexpr size_t kMostFiles = 512;
constexpr size_t kLeftFiles = 384;
// Beyond any answer: what is larger was put there by somebody else.
constexpr std::uintmax_t kMostBytes = std::uintmax_t{64} << 20;

std::string hex(uint64_t number) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(number));
  return text;
}

std::string first_line(const std::string& question, const std::string& rest) {
  return concat(kFirstWord, hex(ir::mix_text(1, rest)), " ", question.size(), "\n");
}

std::string read(const std::string& path) {
  std::error_code error;
  const std::uintmax_t bytes = fs::file_size(path, error);
  if (error || bytes > kMostBytes) return "";
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return file ? text.str() : "";
}

void remove_oldest(const std::string& folder, const std::string& suffix) {
  std::error_code error;
  std::vector<std::pair<fs::file_time_type, fs::path>> files;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    std::error_code gone;  // another process's doing
    const auto time = fs::last_write_time(it->path(), gone);
    if (!gone && it->path().extension() == suffix) files.emplace_back(time, it->path());
  }
  if (files.size() <= kMostFiles) return;
  std::sort(files.begin(), files.end());
  for (size_t i = 0; i + kLeftFiles < files.size(); ++i) fs::remove(files[i].second, error);
}

// The text under `path`, whole or not at all. Returns why it could not be.
std::string write(const std::string& path, const std::string& text) {
  static std::atomic<int> count{0};
  const std::string temporary = concat(path, ".", getpid(), ".", count.fetch_add(1));
  std::error_code error;
  {
    std::ofstream file(temporary, std::ios::binary);
    file << text;
    file.close();
    if (!file) error = std::error_code(errno, std::generic_category());
  }
  if (!error) fs::rename(temporary, path, error);
  if (!error) return "";
  std::error_code ignored;
  fs::remove(temporary, ignored);
  return error.message();
}

struct Kernels {
  std::mutex lock;
  std::string folder;
};

Kernels& kernels() {
  static auto* one = new Kernels;
  return *one;
}

}  // namespace

std::string DiskCache::path_of(const std::string& question) const {
  return concat(folder_, "/", hex(ir::mix_text(0, question)), suffix_);
}

std::optional<std::string> DiskCache::find(const std::string& question) const {
  if (!is_on()) return std::nullopt;
  const std::string text = read(path_of(question));
  const size_t first = text.find('\n');
  if (first == std::string::npos) return std::nullopt;
  const std::string rest = text.substr(first + 1);
  if (text.substr(0, first + 1) != first_line(question, rest) || rest.rfind(question, 0) != 0)
    return std::nullopt;
  return rest.substr(question.size());
}

std::string DiskCache::keep(const std::string& question, const std::string& answer) const {
  if (!is_on()) return "";
  std::error_code error;
  if (fs::create_directories(folder_, error)) fs::permissions(folder_, fs::perms::owner_all, error);
  const std::string rest = question + answer;
  std::string why = write(path_of(question), first_line(question, rest) + rest);
  if (why.empty()) remove_oldest(folder_, suffix_);
  return why;
}

std::string kernel_folder() {
  const std::lock_guard<std::mutex> guard(kernels().lock);
  return kernels().folder;
}

void set_kernel_folder(const std::string& folder) {
  const std::lock_guard<std::mutex> guard(kernels().lock);
  kernels().folder = folder;
}

}  // namespace moai::runtime

#include "runtime/status_page.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <new>
#include <sstream>
#include <utility>

#include "ir/error.h"

namespace moai::runtime {

namespace {

// Of std::chrono::steady_clock, which other processes read as CLOCK_MONOTONIC.
int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// The 22nd word of /proc/self/stat; the second is in parentheses and may hold spaces. 0 where there is none.
int64_t process_began() {
  std::ifstream file("/proc/self/stat");
  std::string text;
  std::getline(file, text);
  const size_t end = text.rfind(')');
  if (end == std::string::npos) return 0;
  std::istringstream words(text.substr(end + 1));
  std::string word;
  for (int i = 3; i <= 22; ++i) words >> word;
  return std::atoll(word.c_str());
}

// A folder that is this user's alone: in /tmp somebody else may have taken the name.
bool make_private(const std::string& folder) {
  if (mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) return false;
  struct stat found {};
  return lstat(folder.c_str(), &found) == 0 && S_ISDIR(found.st_mode) && found.st_uid == geteuid() &&
         (found.st_mode & 0077) == 0;
}

size_t bytes_of(size_t devices) {
  return sizeof(StatusLayout) + sizeof(StatusLayout::Device) * (devices - 1);
}

}  // namespace

std::unique_ptr<StatusPage> StatusPage::make(const std::string& folder,
                                             const std::vector<std::string>& devices, int64_t limit_bytes) {
  if (folder.empty() || !make_private(folder)) return nullptr;
  const std::string path = concat(folder, "/", getpid());
  unlink(path.c_str());  // of an earlier process with this number
  const int file = open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (file < 0) return nullptr;
  const size_t bytes = bytes_of(devices.size());
  // posix_fallocate: a full disk is to be told here, and not by a signal when the memory is written.
  const bool has_room = posix_fallocate(file, 0, static_cast<off_t>(bytes)) == 0;
  void* data = has_room ? mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0) : MAP_FAILED;
  close(file);
  if (data == MAP_FAILED) {
    unlink(path.c_str());
    return nullptr;
  }
  auto* page = new (data) StatusLayout;
  page->version = StatusLayout::kVersion;
  page->devices = static_cast<uint32_t>(devices.size());
  page->pid = getpid();
  page->began = process_began();
  for (size_t d = 0; d < devices.size(); ++d) {
    auto& shown = page->device[d];
    shown.limit_bytes = limit_bytes;
    devices[d].copy(shown.name, sizeof shown.name - 1);
  }
  page->magic.store(StatusLayout::kMagic, std::memory_order_release);
  return std::unique_ptr<StatusPage>(new StatusPage(path, page, bytes));
}

StatusPage::StatusPage(std::string path, StatusLayout* page, size_t bytes)
    : path_(std::move(path)), page_(page), bytes_(bytes) {}

StatusPage::~StatusPage() {
  if (page_->pid == getpid()) unlink(path_.c_str());
  munmap(page_, bytes_);
}

void StatusPage::set_text(const std::string& text) {
  if (text == text_) return;
  text_ = text;
  page_->text_version.fetch_add(1, std::memory_order_acq_rel);
  const size_t length = std::min(text.size(), sizeof page_->text - 1);
  std::memcpy(page_->text, text.data(), length);
  page_->text[length] = '\0';
  page_->text_version.fetch_add(1, std::memory_order_release);
}

void StatusPage::set_counts(int64_t steps, int64_t tokens) {
  page_->steps.store(steps, std::memory_order_relaxed);
  page_->tokens.store(tokens, std::memory_order_relaxed);
}

void StatusPage::begin_run(int device) {
  page_->device[device].since_ns.store(now_ns(), std::memory_order_relaxed);
}

void StatusPage::end_run(int device, int64_t busy_ns, int64_t waited_ns) {
  auto& shown = page_->device[device];
  shown.since_ns.store(0, std::memory_order_relaxed);
  shown.busy_ns.fetch_add(busy_ns, std::memory_order_relaxed);
  shown.waited_ns.fetch_add(waited_ns, std::memory_order_relaxed);
}

void StatusPage::set_memory(int device, int64_t live_bytes, int64_t peak_bytes, int64_t reserved_bytes) {
  auto& shown = page_->device[device];
  shown.live_bytes.store(live_bytes, std::memory_order_relaxed);
  shown.peak_bytes.store(peak_bytes, std::memory_order_relaxed);
  shown.reserved_bytes.store(reserved_bytes, std::memory_order_relaxed);
}

}  // namespace moai::runtime

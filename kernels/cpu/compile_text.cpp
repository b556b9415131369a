#include "kernels/cpu/compile_text.h"

#include <dlfcn.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "ir/error.h"
#include "runtime/disk_cache.h"

namespace moai::cpu {

namespace {

class CompiledText final : public aten::CompiledKernel {
 public:
  explicit CompiledText(void (*function)(const int64_t*)) : function_(function) {}
  void launch(const compile::Launch& launch) override {
    if (launch.blocks == 0) return;
    std::vector<int64_t> words = launch.words;
    if (!launch.table.empty()) words[0] = reinterpret_cast<int64_t>(launch.table.data());
    function_(words.data());
  }

 private:
  void (*const function_)(const int64_t* words);
};

std::string content_of(const std::string& path) {
  std::ostringstream content;
  content << std::ifstream(path, std::ios::binary).rdbuf();
  return content.str();
}

// A name beside which files can be made for a moment.
std::string temporary() {
  static std::atomic<int> count{0};
  return (std::filesystem::temp_directory_path() / concat("moai-kernel-", getpid(), ".", count.fetch_add(1)))
      .string();
}

// The library's bytes.
std::string build(const std::string& text) {
  const std::string mine = temporary();
  std::ofstream(mine + ".cpp") << text;
  const std::string command =
      "c++ -std=c++17 -O1 -w -shared -fPIC -o " + mine + " " + mine + ".cpp 2> " + mine + ".log";
  const int status = std::system(command.c_str());
  const std::string said = content_of(mine + ".log");
  std::string library = content_of(mine);
  for (const char* end : {"", ".cpp", ".log"}) std::remove((mine + end).c_str());
  if (status != 0)
    throw Error(Phase::kCompile, "a fused kernel does not compile").detail(said.substr(0, 2000));
  return library;
}

}  // namespace

std::shared_ptr<aten::CompiledKernel> compile_text(const std::string& text) {
  const runtime::DiskCache cache(runtime::kernel_folder(), ".so");
  auto bytes = cache.find(text);
  if (!bytes) {
    bytes = build(text);
    cache.keep(text, *bytes);
  }
  const std::string path = temporary();
  std::ofstream(path, std::ios::binary) << *bytes;
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);  // not unloaded: there are few
  std::remove(path.c_str());
  void* function = library == nullptr ? nullptr : dlsym(library, "moai_kernel");
  if (function == nullptr)
    throw Error(Phase::kCompile, concat("a fused kernel cannot be loaded: ", dlerror()));
  return std::make_shared<CompiledText>(reinterpret_cast<void (*)(const int64_t*)>(function));
}

}  // namespace moai::cpu

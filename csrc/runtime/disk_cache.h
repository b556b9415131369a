#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <utility>

namespace moai::runtime {

// What can be made again, in a folder: a file for each question (whatever the answer depends on, as text).
// Any number of processes may share the folder: a file is written under another name and renamed, and one
// that is damaged, or of another question, is as good as none. The oldest go when there are too many.
class DiskCache {
 public:
  // `suffix`: of the files, with its dot. An empty `folder` keeps nothing. It is made when the first answer
  // is kept, for this user alone.
  explicit DiskCache(std::string folder, std::string suffix)
      : folder_(std::move(folder)), suffix_(std::move(suffix)) {}

  bool is_on() const { return !folder_.empty(); }
  std::optional<std::string> find(const std::string& question) const;
  // Replaces what there is. Returns why it could not; empty when it could, or nothing is kept here.
  std::string keep(const std::string& question, const std::string& answer) const;

  const std::string& folder() const { return folder_; }

 private:
  std::string path_of(const std::string& question) const;

  std::string folder_;
  std::string suffix_;
};

// Where this process keeps compiled kernels; empty: nowhere.
std::string kernel_folder();
void set_kernel_folder(const std::string& folder);

}  // namespace moai::runtime

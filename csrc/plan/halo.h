#pragma once

#include <cstdint>
#include <vector>

#include "ops/rule.h"
#include "plan/part.h"

namespace moai::plan {

// Note [Halos]
// Where a factor that sees another one through a window (ops::Window) is split, what it sees is split in as
// many parts, evenly, as anything else is. A part's windows reach over its edges: what they see there is its
// *halo*. Each part gives the places near its edges that any other part sees, all gather these, and each puts
// together what it sees: a run of places, which ends beyond those of the whole where there is padding. So the
// op that runs on a part has no padding.
//
// A result that lies as what is seen (a gradient) goes the other way: a part has made a share of all that it
// sees, gives that of other parts' places, and adds what the others give to its own.
//
// Nothing is asked of the parts' sizes: a halo may reach over several parts, and a stride that does not
// divide them moves the parts against each other.
class Halo {
 public:
  // `seen` places lie in groups of `seen_inner`, which are not split, and so do the `seers` that see them.
  Halo(const ops::Window& window, int64_t seen, int64_t seen_inner, int64_t seers, int64_t seers_inner,
       int64_t parts);

  int64_t parts() const { return static_cast<int64_t>(own_.size()); }
  const Part& own(int64_t part) const { return own_[part]; }
  // All that the part's windows see, places outside of the whole included.
  const Part& seen(int64_t part) const { return seen_[part]; }
  // Of these, the ones that there are.
  const Part& real(int64_t part) const { return real_[part]; }
  // Of the part that sees most.
  int64_t most_seen() const;
  // The own places that others see: from the start on, and up to the end. They have nothing in common.
  const Part& first(int64_t part) const { return first_[part]; }
  const Part& last(int64_t part) const { return last_[part]; }
  // Of what the part sees, the places that are another's own.
  Part foreign(int64_t part, int64_t other) const { return common(real_[part], own_[other]); }

  // How many places a part gives when halos are gathered, and when shares of results go back; and all do.
  int64_t given(int64_t part) const { return first_[part].length + last_[part].length; }
  int64_t returned(int64_t part) const;
  int64_t all_given() const;
  int64_t all_returned() const;

 private:
  void find_given(int64_t part);

  std::vector<Part> own_, seen_, real_, first_, last_;  // by part
};

}  // namespace moai::plan

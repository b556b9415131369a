#include "runtime/communicator.h"

#include <utility>

#include "runtime/reduce.h"

namespace moai::runtime {

namespace {

using Kind = Collective::Kind;

const char* kind_name(Kind kind) {
  switch (kind) {
    case Kind::kAllReduce: return "all_reduce";
    case Kind::kAllGather: return "all_gather";
    case Kind::kReduceScatter: return "reduce_scatter";
    case Kind::kAllToAll: return "all_to_all";
    case Kind::kBroadcast: return "broadcast";
    case Kind::kSend: return "send";
    case Kind::kReceive: return "receive";
  }
  return "?";
}

int64_t elements(const ir::Dims& sizes, const Layout& layout, int rank) {
  int64_t count = 1;
  for (size_t d = 0; d < sizes.size(); ++d) {
    count *= static_cast<int>(d) == layout.dim ? layout.parts[rank] : sizes[d];
  }
  return count;
}

Collective made(Kind kind, ir::DType dtype, ir::Dims sizes) {
  Collective collective;
  collective.kind = kind;
  collective.dtype = dtype;
  collective.sizes = std::move(sizes);
  return collective;
}

void verify(const Collective& collective, const Layout& layout, int members) {
  if (!layout.is_cut()) return;
  const auto refuse = [&](const std::string& why) {
    throw Error(Phase::kRun, concat(collective.str(), why));
  };
  if (layout.dim >= static_cast<int>(collective.sizes.size())) {
    refuse(concat(": there is no dim ", layout.dim, " to cut"));
  }
  if (static_cast<int>(layout.parts.size()) != members) {
    refuse(concat(": ", layout.parts.size(), " parts for a group of ", members));
  }
  int64_t sum = 0;
  for (const int64_t part : layout.parts) {
    if (part < 0) refuse(concat(": a part of size ", part));
    sum += part;
  }
  if (sum != collective.sizes[layout.dim]) {
    refuse(concat(": the parts of dim ", layout.dim, " add up to ", sum));
  }
}

}  // namespace

const char* reduce_name(Reduce reduce) {
  switch (reduce) {
    case Reduce::kSum: return "sum";
    case Reduce::kProduct: return "product";
    case Reduce::kMax: return "max";
    case Reduce::kMin: return "min";
    case Reduce::kMean: return "mean";
  }
  return "?";
}

Collective Collective::all_reduce(ir::DType dtype, ir::Dims sizes, Reduce reduce) {
  Collective collective = made(Kind::kAllReduce, dtype, std::move(sizes));
  collective.reduce = reduce;
  return collective;
}

Collective Collective::all_gather(ir::DType dtype, ir::Dims sizes, int dim, std::vector<int64_t> parts) {
  Collective collective = made(Kind::kAllGather, dtype, std::move(sizes));
  collective.from = {dim, std::move(parts)};
  return collective;
}

Collective Collective::reduce_scatter(ir::DType dtype, ir::Dims sizes, int dim, std::vector<int64_t> parts,
                                      Reduce reduce) {
  Collective collective = made(Kind::kReduceScatter, dtype, std::move(sizes));
  collective.to = {dim, std::move(parts)};
  collective.reduce = reduce;
  return collective;
}

Collective Collective::all_to_all(ir::DType dtype, ir::Dims sizes, Layout from, Layout to) {
  Collective collective = made(Kind::kAllToAll, dtype, std::move(sizes));
  collective.from = std::move(from);
  collective.to = std::move(to);
  return collective;
}

Collective Collective::broadcast(ir::DType dtype, ir::Dims sizes, int root) {
  Collective collective = made(Kind::kBroadcast, dtype, std::move(sizes));
  collective.peer = root;
  return collective;
}

Collective Collective::send(ir::DType dtype, ir::Dims sizes, int to) {
  Collective collective = made(Kind::kSend, dtype, std::move(sizes));
  collective.peer = to;
  return collective;
}

Collective Collective::receive(ir::DType dtype, ir::Dims sizes, int from) {
  Collective collective = made(Kind::kReceive, dtype, std::move(sizes));
  collective.peer = from;
  return collective;
}

int64_t Collective::in_elements(int rank) const {
  return kind == Kind::kReceive ? 0 : elements(sizes, from, rank);
}

int64_t Collective::out_elements(int rank) const {
  return kind == Kind::kSend ? 0 : elements(sizes, to, rank);
}

std::string Collective::str() const {
  std::string text = concat(kind_name(kind), "(");
  if (reduces()) text += concat(reduce_name(reduce), ", ");
  text += ir::Type::contiguous(dtype, sizes).str();
  if (kind == Kind::kAllToAll) {
    text += concat(", dim ", from.dim, " to ", to.dim);
  } else if (from.is_cut() || to.is_cut()) {
    text += concat(", dim ", from.is_cut() ? from.dim : to.dim);
  }
  if (kind == Kind::kBroadcast || kind == Kind::kReceive) text += concat(", from rank ", peer);
  if (kind == Kind::kSend) text += concat(", to rank ", peer);
  return text + ")";
}

bool Collective::operator==(const Collective& other) const {
  return kind == other.kind && dtype == other.dtype && sizes == other.sizes && from == other.from &&
         to == other.to && (!reduces() || reduce == other.reduce) && peer == other.peer;
}

void verify(const Collective& collective, int members) {
  const auto refuse = [&](const std::string& why) {
    throw Error(Phase::kRun, concat(collective.str(), why));
  };
  if (ir::element_bytes(collective.dtype) == 0) refuse(": a type without a size");
  for (const int64_t size : collective.sizes) {
    if (size < 0) refuse(": a negative size");
  }
  verify(collective, collective.from, members);
  verify(collective, collective.to, members);
  const Kind kind = collective.kind;
  const bool cuts_from = kind == Kind::kAllGather || kind == Kind::kAllToAll;
  const bool cuts_to = kind == Kind::kReduceScatter || kind == Kind::kAllToAll;
  if (collective.from.is_cut() != cuts_from || collective.to.is_cut() != cuts_to) {
    refuse(": it needs a dim that is cut");
  }
  if (collective.peer < 0 || collective.peer >= members) refuse(concat(" in a group of ", members));
  if (collective.reduces() && !can_reduce(collective.dtype, collective.reduce)) {
    refuse(concat(": ", ir::dtype_name(collective.dtype), " has no ", reduce_name(collective.reduce)));
  }
}

std::string bucket_words(const Collective& first, size_t count) {
  return count == 1 ? first.str() : concat(first.str(), " and ", count - 1, " more");
}

void verify(const std::vector<Share>& bucket, int members) {
  MOAI_ASSERT(!bucket.empty(), "a bucket of no collective");
  for (const Share& share : bucket) {
    verify(share.what, members);
    const Kind kind = share.what.kind;
    if (bucket.size() > 1 && (kind == Kind::kSend || kind == Kind::kReceive))
      throw Error(Phase::kRun, concat(share.what.str(), ": a message is no part of a bucket"));
  }
}

}  // namespace moai::runtime

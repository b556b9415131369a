#pragma once

#include <ATen/core/ivalue.h>
#include <c10/core/DefaultDtype.h>

#include <cstring>
#include <vector>

#include "record/hint.h"
#include "record/recorder.h"

namespace moai::record {

// Note [A call in words]
// A call's structure is a sequence of 64-bit words: which value of the trace each tensor is, its
// dtype and view, and the static arguments. Following a trace compares these words with those of
// the expected op; recording a new op writes them. Numbers go to the segment's buffer on the side.

enum class Encoded : uint8_t {
  kSame,     // every word was accepted
  kDiffers,  // the sink refused a word
  kForeign,  // a tensor of another device, or a value that a graph does not hold
};

// Accepts the words of the call that it was made from.
class KeyMatcher {
 public:
  explicit KeyMatcher(const std::vector<int64_t>& key) : at_(key.data()), end_(key.data() + key.size()) {}
  bool word(int64_t w) { return at_ != end_ && *at_++ == w; }
  bool words(const int64_t* w, size_t n) {
    if (static_cast<size_t>(end_ - at_) < n || std::memcmp(at_, w, n * sizeof(int64_t)) != 0) return false;
    at_ += n;
    return true;
  }
  bool complete() const { return at_ == end_; }

 private:
  const int64_t* at_;
  const int64_t* end_;
};

// Accepts all and keeps them.
class KeyWriter {
 public:
  bool word(int64_t w) {
    key.push_back(w);
    return true;
  }
  bool words(const int64_t* w, size_t n) {
    key.insert(key.end(), w, w + n);
    return true;
  }
  std::vector<int64_t> key;
};

// Which value of the segment a storage holds. An outside value becomes its next input.
ValueRef ref_of(Segment& segment, Storage& storage);

// Cuts the open segment, of another thread, in which `storage` was last written; and one that has
// captured the same outside value, since this segment may write over it.
void leave_other_segments(Segment& segment, Storage& storage);

namespace detail {

constexpr int64_t kNoTensor = -1;
constexpr int64_t kHostScalar = -2;

// A 0-dim CPU tensor: Python's numbers arrive as such.
inline bool is_host_scalar(const at::Tensor& tensor) {
  return tensor.dim() == 0 && tensor.device().is_cpu() && !tensor.is_complex();
}

// Its conjugation or negation is a bit that no op has seen to yet: some ops of torch take such
// tensors as they are.
inline bool is_lazily_changed(const c10::TensorImpl& impl) {
  constexpr auto kBits = c10::DispatchKeySet({c10::DispatchKey::Conjugate, c10::DispatchKey::Negative});
  return impl.key_set().has_any(kBits);
}

runtime::Number read_host_scalar(const at::Tensor& tensor);

template <typename Sink>
Encoded encode_tensor(Segment& segment, const at::Tensor& tensor, size_t known_inputs, Sink& sink) {
  if (!tensor.defined()) return sink.word(kNoTensor) ? Encoded::kSame : Encoded::kDiffers;
  const c10::TensorImpl* impl = tensor.unsafeGetTensorImpl();
  if (!impl->is_privateuseone()) {
    if (!is_host_scalar(tensor)) return Encoded::kForeign;
    segment.numbers.push_back(read_host_scalar(tensor));
    const int64_t what =
        static_cast<int64_t>(tensor.scalar_type()) << 1 | (impl->is_wrapped_number() ? 1 : 0);
    return sink.word(kHostScalar) && sink.word(what) ? Encoded::kSame : Encoded::kDiffers;
  }
  if (is_lazily_changed(*impl) || !has_own_storage(*impl)) return Encoded::kForeign;
  Storage& storage = storage_of(tensor);
  const ValueRef ref = ref_of(segment, storage);
  const auto sizes = impl->sizes();
  const auto strides = impl->strides();
  const int64_t head = (static_cast<int64_t>(ref) & 0xffffffff) |
                       static_cast<int64_t>(c10::typeMetaToScalarType(impl->dtype())) << 32 |
                       static_cast<int64_t>(sizes.size()) << 40;
  if (!sink.word(head)) return Encoded::kDiffers;
  const bool outside = ref < 0;
  if (outside && (ref == kUndefined || static_cast<size_t>(input_of(ref)) >= known_inputs)) {
    const Hint* hint = hint_of(storage);
    const void* laid_out = hint != nullptr ? static_cast<const void*>(hint) : storage.layout;
    if (!sink.word(reinterpret_cast<int64_t>(laid_out))) return Encoded::kDiffers;
  }
  if (!sink.words(sizes.data(), sizes.size()) || !sink.words(strides.data(), strides.size()))
    return Encoded::kDiffers;
  runtime::Number offset;
  offset.i = impl->storage_offset();
  segment.numbers.push_back(offset);
  return Encoded::kSame;
}

template <typename Sink>
bool encode_static(const at::IValue& value, Sink& sink) {
  // Where no dtype is given it is the default one, which scripts change.
  if (value.isNone()) return sink.word(1 | static_cast<int64_t>(c10::get_default_dtype_as_scalartype()) << 8);
  if (value.isInt()) return sink.word(2) && sink.word(value.toInt());
  if (value.isBool()) return sink.word(3) && sink.word(value.toBool());
  if (value.isDouble()) {
    const double d = value.toDouble();
    int64_t bits = 0;
    std::memcpy(&bits, &d, sizeof bits);
    return sink.word(4) && sink.word(bits);
  }
  if (value.isList()) {
    const auto list = value.toListRef();
    if (!sink.word(5) || !sink.word(static_cast<int64_t>(list.size()))) return false;
    for (const auto& element : list) {
      if (!encode_static(element, sink)) return false;
    }
    return true;
  }
  if (value.isString()) {
    const std::string& text = value.toStringRef();
    if (!sink.word(8) || !sink.word(static_cast<int64_t>(text.size()))) return false;
    for (const char c : text) {
      if (!sink.word(c)) return false;
    }
    return true;
  }
  if (value.isComplexDouble()) {
    const auto c = value.toComplexDouble();
    int64_t bits[2];
    std::memcpy(bits, &c, sizeof bits);
    return sink.word(9) && sink.words(bits, 2);
  }
  return sink.word(10);  // nothing else has ArgKind::kStatic or kScalar
}

template <typename Sink>
bool encode_number(Segment& segment, const OpSchema& op, const at::IValue& value, Sink& sink) {
  if (op.static_numbers || value.isNone() || value.isComplexDouble()) return encode_static(value, sink);
  runtime::Number number;
  int64_t kind = 0;
  if (value.isDouble()) {
    number.f = value.toDouble();
    kind = 21;
  } else if (value.isInt()) {
    number.i = value.toInt();
    kind = 22;
  } else {
    number.i = value.toBool();
    kind = 23;
  }
  segment.numbers.push_back(number);
  return sink.word(kind);
}

}  // namespace detail

// Sends the call's words to `sink` and its numbers to the segment. On kDiffers and kForeign the
// caller takes back the numbers; inputs that were added stay (their order is that of first use
// either way).
template <typename Sink>
Encoded encode(Segment& segment, const OpSchema& op, at::ArrayRef<at::IValue> args, Sink& sink) {
  const size_t known_inputs = segment.op_first_input;
  for (size_t i = 0; i < op.args.size(); ++i) {
    const at::IValue& value = args[i];
    switch (op.args[i]) {
      case ArgKind::kTensor: {
        if (value.isNone()) {
          if (!sink.word(detail::kNoTensor)) return Encoded::kDiffers;
          break;
        }
        const auto result = detail::encode_tensor(segment, value.toTensor(), known_inputs, sink);
        if (result != Encoded::kSame) return result;
        break;
      }
      case ArgKind::kTensorList: {
        if (value.isNone()) {
          if (!sink.word(1)) return Encoded::kDiffers;
          break;
        }
        const auto list = value.toListRef();
        if (!sink.word(static_cast<int64_t>(list.size()))) return Encoded::kDiffers;
        for (const auto& element : list) {
          if (element.isNone()) {
            if (!sink.word(detail::kNoTensor)) return Encoded::kDiffers;
            continue;
          }
          const auto result = detail::encode_tensor(segment, element.toTensor(), known_inputs, sink);
          if (result != Encoded::kSame) return result;
        }
        break;
      }
      case ArgKind::kScalar:
        if (!detail::encode_number(segment, op, value, sink)) return Encoded::kDiffers;
        break;
      case ArgKind::kScalarList: {
        if (value.isNone()) {
          if (!sink.word(1)) return Encoded::kDiffers;
          break;
        }
        const auto list = value.toListRef();
        if (!sink.word(static_cast<int64_t>(list.size()))) return Encoded::kDiffers;
        for (const auto& element : list) {
          if (!detail::encode_number(segment, op, element, sink)) return Encoded::kDiffers;
        }
        break;
      }
      case ArgKind::kStatic:
        if (!detail::encode_static(value, sink)) return Encoded::kDiffers;
        break;
      case ArgKind::kDevice:
        if (value.isDevice() && value.toDevice().index() > 0)
          TORCH_CHECK(false, "moai is one device: there is no ", value.toDevice());
        break;
      case ArgKind::kGenerator: break;
      case ArgKind::kOther: return Encoded::kForeign;
    }
  }
  return Encoded::kSame;
}

}  // namespace moai::record

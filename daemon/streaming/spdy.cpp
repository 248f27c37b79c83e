#include "daemon/streaming/spdy.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <array>

namespace userpod::streaming::spdy {
namespace {

enum Type : std::uint16_t {
  kSynStream = 1,
  kSynReply = 2,
  kRstStream = 3,
  kPing = 6,
  kGoAway = 7,
  kHeaders = 8,
};
constexpr std::uint8_t kFin = 1;
constexpr std::uint16_t kVersion = 3;
constexpr std::uint32_t kStreamMask = 0x7fffffff;
constexpr std::size_t kFrameHead = 8;
constexpr std::uint32_t kMaxHeaders = 64;

std::uint32_t number(std::string_view bytes, std::size_t at, int count = 4) {
  std::uint32_t value = 0;
  for (int i = 0; i < count; ++i)
    value = value << 8 | static_cast<unsigned char>(bytes[at + static_cast<std::size_t>(i)]);
  return value;
}

void append(std::string& out, std::uint32_t value, int count = 4) {
  for (int shift = 8 * (count - 1); shift >= 0; shift -= 8) out += static_cast<char>(value >> shift & 0xff);
}

std::string controlHead(std::uint16_t type, std::size_t size) {
  std::string out;
  append(out, 0x8000U | kVersion, 2);
  append(out, type, 2);
  append(out, static_cast<std::uint32_t>(size), 4);  // flags 0
  return out;
}

Error broken(std::string text) {
  return {Code::InvalidArgument, "SPDY: " + std::move(text)};
}

std::string makeDictionary() {
  // Each with its length in front.
  constexpr auto kWords = std::to_array<std::string_view>({"options",
                                                           "head",
                                                           "post",
                                                           "put",
                                                           "delete",
                                                           "trace",
                                                           "accept",
                                                           "accept-charset",
                                                           "accept-encoding",
                                                           "accept-language",
                                                           "accept-ranges",
                                                           "age",
                                                           "allow",
                                                           "authorization",
                                                           "cache-control",
                                                           "connection",
                                                           "content-base",
                                                           "content-encoding",
                                                           "content-language",
                                                           "content-length",
                                                           "content-location",
                                                           "content-md5",
                                                           "content-range",
                                                           "content-type",
                                                           "date",
                                                           "etag",
                                                           "expect",
                                                           "expires",
                                                           "from",
                                                           "host",
                                                           "if-match",
                                                           "if-modified-since",
                                                           "if-none-match",
                                                           "if-range",
                                                           "if-unmodified-since",
                                                           "last-modified",
                                                           "location",
                                                           "max-forwards",
                                                           "pragma",
                                                           "proxy-authenticate",
                                                           "proxy-authorization",
                                                           "range",
                                                           "referer",
                                                           "retry-after",
                                                           "server",
                                                           "te",
                                                           "trailer",
                                                           "transfer-encoding",
                                                           "upgrade",
                                                           "user-agent",
                                                           "vary",
                                                           "via",
                                                           "warning",
                                                           "www-authenticate",
                                                           "method",
                                                           "get",
                                                           "status",
                                                           "200 OK",
                                                           "version",
                                                           "HTTP/1.1",
                                                           "url",
                                                           "public",
                                                           "set-cookie",
                                                           "keep-alive",
                                                           "origin"});
  std::string out;
  for (auto word : kWords) {
    append(out, static_cast<std::uint32_t>(word.size()));
    out += word;
  }
  out +=
      "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 Non-Authoritative "
      "Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not Found500 "
      "Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec "
      "00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,"
      "application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset="
      "iso-8859-1,utf-,*,enq=0.";
  return out;
}

}  // namespace

const std::string& dictionary() {
  static const std::string text = makeDictionary();
  return text;
}

Decoder::~Decoder() {
  if (inflating_) ::inflateEnd(&zlib_);
}

Status Decoder::feed(std::string_view bytes) {
  while (!bytes.empty()) {
    if (state_ == State::Head) {
      std::size_t part = std::min(bytes.size(), kFrameHead - held_.size());
      held_ += bytes.substr(0, part);
      bytes.remove_prefix(part);
      if (held_.size() < kFrameHead) return {};
      USERPOD_CHECK(frameHead());
    } else {
      std::string_view part = bytes.substr(0, left_);
      bytes.remove_prefix(part.size());
      left_ -= static_cast<std::uint32_t>(part.size());
      if (state_ == State::Control) held_ += part;
      if (state_ == State::Data) events_.data(stream_, part);
    }
    if (left_ > 0) continue;
    State whole = std::exchange(state_, State::Head);
    if (whole == State::Control) USERPOD_CHECK(controlFrame());
    if (whole == State::Data && (flags_ & kFin) != 0) events_.end(stream_);
    held_.clear();
  }
  return {};
}

// The first eight bytes: what kind of frame, and how long.
Status Decoder::frameHead() {
  std::string head = std::exchange(held_, {});
  bool control = (head[0] & 0x80) != 0;
  flags_ = static_cast<std::uint8_t>(head[4]);
  left_ = number(head, 5, 3);
  if (!control) {
    state_ = State::Data;
    stream_ = number(head, 0) & kStreamMask;
    return {};
  }
  std::uint32_t version = number(head, 0, 2) & 0x7fff;
  if (version != kVersion) return broken(fmt::format("a frame of version {}; only version 3 is spoken here", version));
  type_ = static_cast<std::uint16_t>(number(head, 2, 2));
  bool read = type_ == kSynStream || type_ == kSynReply || type_ == kHeaders || type_ == kRstStream || type_ == kPing ||
              type_ == kGoAway;
  state_ = read ? State::Control : State::Skip;  // SETTINGS, WINDOW_UPDATE, CREDENTIAL and what nobody knows
  if (left_ > kMaxHeaderBlock)
    return broken(fmt::format("a control frame of {} bytes; at most {} are taken", left_, kMaxHeaderBlock));
  return {};
}

Status Decoder::controlFrame() {
  std::string payload = std::exchange(held_, {});
  auto needs = [&](std::size_t size) -> Status {
    if (payload.size() >= size) return {};
    return broken(fmt::format("a control frame of type {} with {} bytes, which is too short", type_, payload.size()));
  };
  switch (type_) {
    case kSynStream:
      USERPOD_CHECK(needs(10));
      return synStream(payload);
    case kSynReply:
    case kHeaders: {
      // Nothing here asks for them, but their block is a part of the one zlib stream.
      USERPOD_CHECK(needs(4));
      USERPOD_TRY(ignored, headers(std::string_view(payload).substr(4)));
      (void)ignored;
      return {};
    }
    case kRstStream:
      USERPOD_CHECK(needs(8));
      events_.rstStream(number(payload, 0) & kStreamMask);
      return {};
    case kPing:
      USERPOD_CHECK(needs(4));
      events_.ping(number(payload, 0));
      return {};
    default:
      events_.goAway();
      return {};
  }
}

Status Decoder::synStream(std::string_view payload) {
  std::uint32_t id = number(payload, 0) & kStreamMask;
  if (id % 2 == 0) return broken(fmt::format("stream {} from a client, whose streams have odd numbers", id));
  if (id <= lastStream_) return broken(fmt::format("stream {} after stream {}", id, lastStream_));
  lastStream_ = id;
  USERPOD_TRY(fields, headers(payload.substr(10)));
  bool fin = (flags_ & kFin) != 0;
  events_.synStream(id, std::move(fields));
  if (fin) events_.end(id);
  return {};
}

Result<std::string> Decoder::inflate(std::string_view block) {
  if (!inflating_) {
    if (::inflateInit(&zlib_) != Z_OK) return Error(Code::Internal, "zlib does not start");
    inflating_ = true;
  }
  std::string out(kMaxHeaderBlock, '\0');
  zlib_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(block.data()));
  zlib_.avail_in = static_cast<uInt>(block.size());
  zlib_.next_out = reinterpret_cast<Bytef*>(out.data());
  zlib_.avail_out = static_cast<uInt>(out.size());
  int status = ::inflate(&zlib_, Z_SYNC_FLUSH);
  if (status == Z_NEED_DICT) {
    const std::string& words = dictionary();
    if (::inflateSetDictionary(&zlib_, reinterpret_cast<const Bytef*>(words.data()), static_cast<uInt>(words.size())) !=
        Z_OK)
      return broken("header blocks are not compressed with the dictionary of SPDY/3");
    status = ::inflate(&zlib_, Z_SYNC_FLUSH);
  }
  if (status == Z_BUF_ERROR && zlib_.avail_in == 0 && zlib_.avail_out > 0) status = Z_OK;  // an empty block
  if (zlib_.avail_out == 0) return broken(fmt::format("a header block of more than {} bytes", kMaxHeaderBlock));
  if (status != Z_OK || zlib_.avail_in != 0) return broken("a header block is not the next part of a zlib stream");
  out.resize(out.size() - zlib_.avail_out);
  return out;
}

Result<Headers> Decoder::headers(std::string_view block) {
  USERPOD_TRY(text, inflate(block));
  std::string_view rest = text;
  auto take = [&rest](std::string_view& into) {
    if (rest.size() < 4) return false;
    std::uint32_t size = number(rest, 0);
    rest.remove_prefix(4);
    if (rest.size() < size) return false;
    into = rest.substr(0, size);
    rest.remove_prefix(size);
    return true;
  };
  if (rest.size() < 4) return broken("a header block without a count");
  std::uint32_t count = number(rest, 0);
  rest.remove_prefix(4);
  if (count > kMaxHeaders) return broken(fmt::format("{} headers; at most {} are taken", count, kMaxHeaders));
  Headers fields;
  for (std::uint32_t i = 0; i < count; ++i) {
    std::string_view name;
    std::string_view value;
    if (!take(name) || !take(value)) return broken("a header is cut off");
    std::string key(name);
    std::transform(key.begin(), key.end(), key.begin(),
                   [](char c) { return 'A' <= c && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c; });
    fields.insert_or_assign(std::move(key), std::string(value));
  }
  return fields;
}

std::string dataHead(std::uint32_t id, std::size_t size, bool fin) {
  std::string out;
  append(out, id);
  out += static_cast<char>(fin ? kFin : 0);
  append(out, static_cast<std::uint32_t>(size), 3);
  return out;
}

std::string rstStream(std::uint32_t id, Reset status) {
  std::string out = controlHead(kRstStream, 8);
  append(out, id);
  append(out, static_cast<std::uint32_t>(status));
  return out;
}

std::string ping(std::uint32_t id) {
  std::string out = controlHead(kPing, 4);
  append(out, id);
  return out;
}

std::string goAway(std::uint32_t lastStream, bool protocolError) {
  std::string out = controlHead(kGoAway, 8);
  append(out, lastStream);
  append(out, protocolError ? 1 : 0);
  return out;
}

// No headers: a count of zero. It goes into the zlib stream as a stored block, so that a connection needs no deflate
// state, which is 6 KiB at its smallest. The stream begins with its head and the dictionary's checksum (RFC 1950); the
// empty block behind is what a flush writes, and without it Go's reader waits for more.
std::string ReplyEncoder::synReply(std::uint32_t id) {
  constexpr std::string_view kStored("\x00\x04\x00\xfb\xff\x00\x00\x00\x00", 9);  // 4 bytes, their complement, they
  constexpr std::string_view kFlush("\x00\x00\x00\xff\xff", 5);
  std::string block;
  if (!std::exchange(begun_, true)) {
    append(block, 0x7820, 2);  // deflate, window of 32 KiB, a dictionary
    append(block, 0xe3c6a7c2);
  }
  block.append(kStored).append(kFlush);
  std::string out = controlHead(kSynReply, 4 + block.size());
  append(out, id);
  return out + block;
}

}  // namespace userpod::streaming::spdy

// Framing and header blocks of SPDY/3.1.
#include <zlib.h>

#include <cstring>
#include <stdexcept>

#include "tests/streaming/spdy_client.hpp"

namespace userpod::streamtest::spdy {
namespace {

// The dictionary: each of these words after its length, then the text that follows.
constexpr const char* kWords[] = {"options",
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
                                  "origin"};
constexpr const char* kText =
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized"
    "403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,"
    "text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

const Bytef* bytesOf(std::string_view text) {
  return reinterpret_cast<const Bytef*>(text.data());
}

std::uint32_t takeNumber(std::string_view& text) {
  if (text.size() < 4) throw std::runtime_error("a header block that is cut");
  std::uint32_t value = 0;
  for (int i = 0; i < 4; ++i) value = value << 8 | static_cast<std::uint8_t>(text[static_cast<std::size_t>(i)]);
  text.remove_prefix(4);
  return value;
}

std::string takeString(std::string_view& text) {
  auto length = takeNumber(text);
  if (text.size() < length) throw std::runtime_error("a header block that is cut");
  std::string taken(text.substr(0, length));
  text.remove_prefix(length);
  return taken;
}

}  // namespace

const std::string& dictionary() {
  static const std::string made = [] {
    std::string text;
    for (const auto* word : kWords) text += number32(static_cast<std::uint32_t>(std::strlen(word))) + word;
    return text + kText;
  }();
  return made;
}

std::string number16(std::uint16_t value) {
  return {static_cast<char>(value >> 8), static_cast<char>(value)};
}
std::string number24(std::uint32_t value) {
  return {static_cast<char>(value >> 16), static_cast<char>(value >> 8), static_cast<char>(value)};
}
std::string number32(std::uint32_t value) {
  return static_cast<char>(value >> 24) + number24(value);
}

std::string controlFrame(std::uint16_t type, std::uint8_t flags, std::string_view payload, std::uint16_t version) {
  auto frame = number16(version | 0x8000) + number16(type) + static_cast<char>(flags) +
               number24(static_cast<std::uint32_t>(payload.size()));
  return frame.append(payload);
}

std::string dataHead(std::uint32_t stream, std::uint8_t flags, std::uint32_t length) {
  return number32(stream) + static_cast<char>(flags) + number24(length);
}

std::string headerText(const Headers& headers) {
  auto text = number32(static_cast<std::uint32_t>(headers.size()));
  for (const auto& [name, value] : headers)
    for (const auto* one : {&name, &value}) text += number32(static_cast<std::uint32_t>(one->size())) + *one;
  return text;
}

struct Deflater::State {
  z_stream z{};
};

Deflater::Deflater() : state_(std::make_unique<State>()) {
  if (deflateInit(&state_->z, Z_BEST_COMPRESSION) != Z_OK ||
      deflateSetDictionary(&state_->z, bytesOf(dictionary()), static_cast<uInt>(dictionary().size())) != Z_OK)
    throw std::runtime_error("deflate cannot begin");
}

Deflater::~Deflater() {
  deflateEnd(&state_->z);
}

std::string Deflater::compress(std::string_view text) {
  auto& z = state_->z;
  z.next_in = const_cast<Bytef*>(bytesOf(text));
  z.avail_in = static_cast<uInt>(text.size());
  std::string block;
  char buffer[4096];
  do {
    z.next_out = reinterpret_cast<Bytef*>(buffer);
    z.avail_out = sizeof buffer;
    deflate(&z, Z_SYNC_FLUSH);
    block.append(buffer, sizeof buffer - z.avail_out);
  } while (z.avail_out == 0);
  return block;
}

struct Inflater::State {
  z_stream z{};
};

Inflater::Inflater() : state_(std::make_unique<State>()) {
  if (inflateInit(&state_->z) != Z_OK) throw std::runtime_error("inflate cannot begin");
}

Inflater::~Inflater() {
  inflateEnd(&state_->z);
}

Headers Inflater::decompress(std::string_view block) {
  auto& z = state_->z;
  z.next_in = const_cast<Bytef*>(bytesOf(block));
  z.avail_in = static_cast<uInt>(block.size());
  std::string text;
  char buffer[4096];
  do {
    z.next_out = reinterpret_cast<Bytef*>(buffer);
    z.avail_out = sizeof buffer;
    int result = inflate(&z, Z_SYNC_FLUSH);
    if (result == Z_NEED_DICT) {
      if (inflateSetDictionary(&z, bytesOf(dictionary()), static_cast<uInt>(dictionary().size())) != Z_OK)
        throw std::runtime_error("a header block with another dictionary");
      continue;
    }
    if (result != Z_OK && result != Z_BUF_ERROR) throw std::runtime_error("a header block that zlib cannot read");
    text.append(buffer, sizeof buffer - z.avail_out);
  } while (z.avail_in > 0 || z.avail_out == 0);
  std::string_view rest = text;
  Headers headers;
  for (auto count = takeNumber(rest); count > 0; --count) {
    auto name = takeString(rest);
    headers.emplace_back(std::move(name), takeString(rest));
  }
  if (!rest.empty()) throw std::runtime_error("a header block with more than its headers");
  return headers;
}

}  // namespace userpod::streamtest::spdy

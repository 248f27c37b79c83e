#include "tests/streaming/http.hpp"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cstring>

namespace userpod::streamtest {
namespace {

constexpr std::size_t kLargestAnswer = 1 << 20;
constexpr char kLetters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

bool sameName(std::string_view one, std::string_view other) {
  return std::equal(one.begin(), one.end(), other.begin(), other.end(),
                    [](unsigned char a, unsigned char b) { return std::tolower(a) == std::tolower(b); });
}

void setTimes(int socket, int seconds) {
  timeval time{seconds, 0};
  ::setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time);
  ::setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &time, sizeof time);
}

void sendAll(int socket, std::string_view bytes) {
  while (!bytes.empty()) {
    auto sent = ::send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent < 0) return;  // an answer may have come all the same
    bytes.remove_prefix(static_cast<std::size_t>(sent));
  }
}

// Appends what comes; false at the end of it.
bool readMore(int socket, std::string& text) {
  char buffer[4096];
  auto got = ::recv(socket, buffer, sizeof buffer, 0);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) throw Lost("no answer of the server in time");
  if (got <= 0 || text.size() > kLargestAnswer) return false;
  text.append(buffer, static_cast<std::size_t>(got));
  return true;
}

Answer parseHead(std::string_view head) {
  Answer answer;
  auto line = head.substr(0, head.find("\r\n"));
  if (line.substr(0, 5) != "HTTP/" || line.size() < 12) throw Lost("no answer of HTTP: " + std::string(line));
  std::from_chars(line.data() + 9, line.data() + 12, answer.status);
  for (auto at = line.size() + 2; at < head.size();) {
    line = head.substr(at, head.find("\r\n", at) - at);
    at += line.size() + 2;
    auto colon = line.find(':');
    if (colon == std::string_view::npos) throw Lost("no header line: " + std::string(line));
    auto value = line.substr(colon + 1);
    value.remove_prefix(std::min(value.find_first_not_of(" \t"), value.size()));
    answer.headers.emplace_back(line.substr(0, colon), value);
  }
  return answer;
}

std::array<std::uint8_t, 20> sha1(std::string text) {
  auto bits = static_cast<std::uint64_t>(text.size()) * 8;
  text += '\x80';
  while (text.size() % 64 != 56) text += '\0';
  for (int shift = 56; shift >= 0; shift -= 8) text += static_cast<char>(bits >> shift);
  std::array<std::uint32_t, 5> state{0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
  for (std::size_t block = 0; block < text.size(); block += 64) {
    std::array<std::uint32_t, 80> w{};
    for (std::size_t i = 0; i < 64; ++i)
      w[i / 4] |= static_cast<std::uint32_t>(static_cast<std::uint8_t>(text[block + i])) << (24 - i % 4 * 8);
    for (std::size_t i = 16; i < 80; ++i) w[i] = std::rotl(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    auto [a, b, c, d, e] = state;
    for (std::size_t i = 0; i < 80; ++i) {
      auto [f, k] = i < 20   ? std::pair{(b & c) | (~b & d), 0x5a827999U}
                    : i < 40 ? std::pair{b ^ c ^ d, 0x6ed9eba1U}
                    : i < 60 ? std::pair{(b & c) | (b & d) | (c & d), 0x8f1bbcdcU}
                             : std::pair{b ^ c ^ d, 0xca62c1d6U};
      auto next = std::rotl(a, 5) + f + e + k + w[i];
      e = d, d = c, c = std::rotl(b, 30), b = a, a = next;
    }
    state = {state[0] + a, state[1] + b, state[2] + c, state[3] + d, state[4] + e};
  }
  std::array<std::uint8_t, 20> digest{};
  for (std::size_t i = 0; i < 20; ++i) digest[i] = static_cast<std::uint8_t>(state[i / 4] >> (24 - i % 4 * 8));
  return digest;
}

}  // namespace

Url parseUrl(const std::string& text) {
  Url url;
  auto scheme = text.find("://");
  if (scheme == std::string::npos) throw std::invalid_argument("no URL: " + text);
  url.scheme = text.substr(0, scheme);
  auto path = std::min(text.find('/', scheme + 3), text.size());
  auto place = text.substr(scheme + 3, path - scheme - 3);
  url.path = path == text.size() ? "/" : text.substr(path);
  auto colon = place.rfind(':');
  if (colon == std::string::npos || place.back() == ']') throw std::invalid_argument("URL without a port: " + text);
  url.host = place.substr(0, colon);
  if (url.host.starts_with('[') && url.host.ends_with(']')) url.host = url.host.substr(1, url.host.size() - 2);
  auto end = place.data() + place.size();
  if (std::from_chars(place.data() + colon + 1, end, url.port).ptr != end || url.port == 0)
    throw std::invalid_argument("URL whose port is none: " + text);
  return url;
}

Request spdyRequest(const std::vector<std::string>& protocols) {
  Request request;
  request.headers = {{"User-Agent", "Go-http-client/1.1"},
                     {"Content-Length", "0"},
                     {"Connection", "Upgrade"},
                     {"Upgrade", "SPDY/3.1"}};
  for (const auto& protocol : protocols) request.headers.emplace_back("X-Stream-Protocol-Version", protocol);
  return request;
}

Request webSocketRequest(const std::vector<std::string>& protocols) {
  Request request{.method = "GET"};
  request.headers = {{"User-Agent", "Go-http-client/1.1"},
                     {"Connection", "Upgrade"},
                     {"Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="}};
  std::string all;
  for (const auto& protocol : protocols) all += (all.empty() ? "" : ", ") + protocol;
  if (!all.empty()) request.headers.emplace_back("Sec-WebSocket-Protocol", all);
  request.headers.emplace_back("Sec-WebSocket-Version", "13");
  request.headers.emplace_back("Upgrade", "websocket");
  return request;
}

Request without(Request request, const std::string& header) {
  std::erase_if(request.headers, [&](const auto& one) { return sameName(one.first, header); });
  return request;
}

Request replaced(Request request, const std::string& header, const std::string& value) {
  request = without(std::move(request), header);
  request.headers.emplace_back(header, value);
  return request;
}

std::vector<std::string> Answer::all(const std::string& header) const {
  std::vector<std::string> values;
  for (const auto& [name, value] : headers)
    if (sameName(name, header)) values.push_back(value);
  return values;
}

std::string Answer::one(const std::string& header) const {
  auto values = all(header);
  return values.empty() ? "" : values.front();
}

UniqueFd connectTo(const Url& url) {
  bool six = url.host.find(':') != std::string::npos;
  UniqueFd socket(::socket(six ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_storage address{};
  if (six) {
    auto& to = reinterpret_cast<sockaddr_in6&>(address);
    to.sin6_family = AF_INET6, to.sin6_port = htons(url.port);
    if (::inet_pton(AF_INET6, url.host.c_str(), &to.sin6_addr) != 1) throw std::invalid_argument(url.host);
  } else {
    auto& to = reinterpret_cast<sockaddr_in&>(address);
    to.sin_family = AF_INET, to.sin_port = htons(url.port);
    auto host = url.host == "localhost" ? "127.0.0.1" : url.host.c_str();
    if (::inet_pton(AF_INET, host, &to.sin_addr) != 1) throw std::invalid_argument(url.host);
  }
  setTimes(socket.get(), 30);
  socklen_t size = six ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
  if (::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), size) != 0)
    throw Lost("cannot connect to " + url.host + ":" + std::to_string(url.port) + ": " + std::strerror(errno));
  int one = 1;
  ::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  return socket;
}

std::string requestText(const Url& url, const Request& request) {
  auto text = request.method + " " + url.path + " " + request.version + "\r\nHost: " + url.host + ":" +
              std::to_string(url.port) + "\r\n";
  for (const auto& [name, value] : request.headers) text += name + ": " + value + "\r\n";
  return text + "\r\n";
}

Opened ask(const std::string& url, const Request& request) {
  return askBytes(url, requestText(parseUrl(url), request));
}

Opened askBytes(const std::string& url, const std::string& bytes) {
  Opened opened;
  opened.socket = connectTo(parseUrl(url));
  int socket = opened.socket.get();
  sendAll(socket, bytes);
  auto& rest = opened.rest;
  std::size_t end;
  while ((end = rest.find("\r\n\r\n")) == std::string::npos)
    if (!readMore(socket, rest)) return Opened{};
  opened.answer = parseHead(std::string_view(rest).substr(0, end + 2));
  rest.erase(0, end + 4);
  if (opened.answer.status == 101) {
    setTimes(socket, 0);
    return opened;
  }
  std::size_t length = kLargestAnswer;
  if (auto told = opened.answer.one("Content-Length"); !told.empty()) length = std::stoul(told);
  while (rest.size() < length && readMore(socket, rest)) {
  }
  opened.answer.body = std::move(rest);
  opened.rest.clear();
  opened.socket.reset();
  return opened;
}

std::string acceptOf(const std::string& key) {
  auto digest = sha1(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
  return base64({reinterpret_cast<const char*>(digest.data()), digest.size()});
}

std::string base64(std::string_view bytes) {
  std::string text;
  for (std::size_t at = 0; at < bytes.size(); at += 3) {
    std::uint32_t three = 0;
    for (std::size_t i = 0; i < 3; ++i)
      three = three << 8 | (at + i < bytes.size() ? static_cast<std::uint8_t>(bytes[at + i]) : 0);
    for (std::size_t i = 0; i < 4; ++i) text += at + i <= bytes.size() ? kLetters[three >> (18 - 6 * i) & 63] : '=';
  }
  return text;
}

std::string fromBase64(std::string_view text) {
  if (text.size() % 4 != 0) throw std::invalid_argument("base64 of " + std::to_string(text.size()) + " letters");
  auto padding = text.size() - std::min(text.find('='), text.size());
  std::string bytes;
  std::uint32_t held = 0;
  for (std::size_t at = 0; at < text.size(); ++at) {
    auto letter = std::strchr(kLetters, text[at]);
    bool pad = at + padding >= text.size() && text[at] == '=';
    if (!pad && (letter == nullptr || text[at] == '\0')) throw std::invalid_argument("no letter of base64");
    held = held << 6 | (pad ? 0 : static_cast<std::uint32_t>(letter - kLetters));
    if (at % 4 == 3)
      for (int shift = 16; shift >= 0; shift -= 8) bytes += static_cast<char>(held >> shift);
  }
  if (padding > 2) throw std::invalid_argument("padding of base64");
  bytes.resize(bytes.size() - padding);
  return bytes;
}

}  // namespace userpod::streamtest

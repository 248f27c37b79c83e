#include "tests/unit/fake_server.hpp"

#include <arpa/inet.h>
#include <fmt/core.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>

namespace userpod::testing {

namespace {

constexpr int kLookMilliseconds = 20;

bool readable(int fd) {
  pollfd wait{.fd = fd, .events = POLLIN};
  return ::poll(&wait, 1, kLookMilliseconds) > 0;
}

int openSocket(const char* address, int port, bool listening) {
  bool six = std::string_view(address).find(':') != std::string_view::npos;
  int fd = ::socket(six ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in6 name6{};
  sockaddr_in name4{};
  name6.sin6_family = AF_INET6;
  name6.sin6_port = name4.sin_port = htons(static_cast<std::uint16_t>(port));
  name4.sin_family = AF_INET;
  ::inet_pton(six ? AF_INET6 : AF_INET, address,
              six ? static_cast<void*>(&name6.sin6_addr) : static_cast<void*>(&name4.sin_addr));
  auto* name = six ? reinterpret_cast<sockaddr*>(&name6) : reinterpret_cast<sockaddr*>(&name4);
  socklen_t size = six ? sizeof name6 : sizeof name4;
  bool done = listening ? ::bind(fd, name, size) == 0 && ::listen(fd, 64) == 0 : ::connect(fd, name, size) == 0;
  if (done) return fd;
  ::close(fd);
  return -1;
}

EVP_PKEY* readKey(const std::string& file) {
  FILE* stream = std::fopen(file.c_str(), "r");
  EVP_PKEY* key = PEM_read_PrivateKey(stream, nullptr, nullptr, nullptr);
  std::fclose(stream);
  return key;
}

X509* readCertificate(const std::string& file) {
  FILE* stream = std::fopen(file.c_str(), "r");
  X509* certificate = PEM_read_X509(stream, nullptr, nullptr, nullptr);
  std::fclose(stream);
  return certificate;
}

void extend(X509* certificate, X509* issuer, int nid, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str());
  if (extension == nullptr) std::abort();
  X509_add_ext(certificate, extension, -1);
  X509_EXTENSION_free(extension);
}

// Writes BASE.crt and BASE.key. Without an issuer it is an authority, signed by itself.
void makeCertificate(const std::string& base, const std::string& common, const std::string& alternative, long from,
                     long to, X509* issuer, EVP_PKEY* issuerKey) {
  static std::atomic<long> serial = 1;
  EVP_PKEY* key = EVP_EC_gen("P-256");
  X509* certificate = X509_new();
  X509_set_version(certificate, 2);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate), ::getpid() * 1000L + serial++);
  X509_gmtime_adj(X509_getm_notBefore(certificate), from);
  X509_gmtime_adj(X509_getm_notAfter(certificate), to);
  X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>(common.c_str()), -1, -1, 0);
  X509_set_issuer_name(certificate, X509_get_subject_name(issuer == nullptr ? certificate : issuer));
  X509_set_pubkey(certificate, key);
  X509* above = issuer == nullptr ? certificate : issuer;
  if (issuer == nullptr) extend(certificate, above, NID_basic_constraints, "critical,CA:TRUE");
  if (!alternative.empty()) extend(certificate, above, NID_subject_alt_name, alternative);
  X509_sign(certificate, issuer == nullptr ? key : issuerKey, EVP_sha256());
  FILE* stream = std::fopen((base + ".crt").c_str(), "w");
  PEM_write_X509(stream, certificate);
  std::fclose(stream);
  stream = std::fopen((base + ".key").c_str(), "w");
  PEM_write_PrivateKey(stream, key, nullptr, nullptr, 0, nullptr, nullptr);
  std::fclose(stream);
  X509_free(certificate);
  EVP_PKEY_free(key);
}

}  // namespace

std::string FakeRequest::header(const std::string& name) const {
  auto found = headers.find(name);
  return found == headers.end() ? std::string() : found->second;
}

FakeConnection::~FakeConnection() {
  if (tls_ != nullptr) {
    SSL_shutdown(tls_);
    SSL_free(tls_);
  }
  ::close(fd_);
}

bool FakeConnection::send(std::string_view bytes) {
  while (open_ && !bytes.empty()) {
    auto sent = tls_ != nullptr ? SSL_write(tls_, bytes.data(), static_cast<int>(bytes.size()))
                                : ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return open_ = false;
    bytes.remove_prefix(static_cast<std::size_t>(sent));
  }
  return open_;
}

bool FakeConnection::answer(int status, std::string_view body, std::string_view headers) {
  return send(fmt::format("HTTP/1.1 {} Fake\r\nContent-Length: {}\r\n{}\r\n{}", status, body.size(), headers, body));
}

void FakeConnection::hang() {
  char byte = 0;
  while (!stopping_ && (!readable(fd_) || ::recv(fd_, &byte, 1, 0) > 0)) {
  }
  open_ = false;
}

void FakeConnection::linger() {
  ::shutdown(fd_, SHUT_WR);
  hang();
}

void FakeConnection::relay(int port) {
  int other = openSocket("127.0.0.1", port, false);
  char bytes[16384];
  for (bool both = other >= 0; both && !stopping_;) {
    pollfd wait[] = {{.fd = fd_, .events = POLLIN}, {.fd = other, .events = POLLIN}};
    ::poll(wait, 2, kLookMilliseconds);
    for (int i = 0; i < 2 && both; ++i) {
      if (wait[i].revents == 0) continue;
      auto got = ::recv(wait[i].fd, bytes, sizeof bytes, 0);
      both = got > 0 && ::send(wait[1 - i].fd, bytes, static_cast<std::size_t>(got), MSG_NOSIGNAL) == got;
    }
  }
  ::close(other);
  open_ = false;
}

bool FakeConnection::receive() {
  while (!stopping_) {
    if ((tls_ == nullptr || SSL_pending(tls_) == 0) && !readable(fd_)) continue;
    char bytes[16384];
    auto got = tls_ != nullptr ? SSL_read(tls_, bytes, sizeof bytes) : ::recv(fd_, bytes, sizeof bytes, 0);
    if (got <= 0) break;
    buffer_.append(bytes, static_cast<std::size_t>(got));
    return true;
  }
  return open_ = false;
}

bool FakeConnection::read(FakeRequest& request) {
  request = {};
  std::size_t end = 0;
  while ((end = buffer_.find("\r\n\r\n")) == std::string::npos)
    if (buffer_.starts_with('\x16')) {  // what a client of TLS says
      send("HTTP/1.1 400 Bad Request\r\n\r\n");
      linger();
      return false;
    } else if (!receive()) {
      return false;
    }
  std::string head = buffer_.substr(0, end + 2);
  buffer_.erase(0, end + 4);
  auto line = head.substr(0, head.find("\r\n"));
  request.method = line.substr(0, line.find(' '));
  request.target = line.substr(line.find(' ') + 1, line.rfind(' ') - line.find(' ') - 1);
  for (auto at = line.size() + 2; at < head.size();) {
    auto next = head.find("\r\n", at);
    auto one = head.substr(at, next - at);
    auto name = one.substr(0, one.find(':'));
    std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
    request.headers[name] = one.substr(one.find_first_not_of(' ', name.size() + 1));
    at = next + 2;
  }
  auto size = std::strtoul(request.header("content-length").c_str(), nullptr, 10);
  while (buffer_.size() < size)
    if (!receive()) return false;
  request.body = buffer_.substr(0, size);
  buffer_.erase(0, size);
  return true;
}

FakeAuthority::FakeAuthority(const std::string& directory, const std::string& name)
    : directory_(directory), name_(name) {
  makeCertificate(directory_ + "/" + name_, "userpod test " + name_, "", -3600, 86400, nullptr, nullptr);
}

void FakeAuthority::issue(const std::string& name, const std::string& alternative, long from, long to) const {
  X509* own = readCertificate(file());
  EVP_PKEY* key = readKey(directory_ + "/" + name_ + ".key");
  makeCertificate(directory_ + "/" + name, "userpod test " + name, alternative, from, to, own, key);
  X509_free(own);
  EVP_PKEY_free(key);
}

FakeServer::FakeServer(Handler handler, const Tls& tls, const char* address) : handler_(std::move(handler)) {
  std::signal(SIGPIPE, SIG_IGN);  // OpenSSL's writes, on both sides
  bool six = std::string_view(address).find(':') != std::string_view::npos;
  host_ = six ? fmt::format("[{}]", address) : address;
  if (!tls.certificate.empty()) {
    context_ = SSL_CTX_new(TLS_server_method());
    SSL_CTX_use_certificate_chain_file(context_, tls.certificate.c_str());
    SSL_CTX_use_PrivateKey_file(context_, tls.key.c_str(), SSL_FILETYPE_PEM);
    if (!tls.clientAuthority.empty()) {
      SSL_CTX_load_verify_file(context_, tls.clientAuthority.c_str());
      SSL_CTX_set_client_CA_list(context_, SSL_load_client_CA_file(tls.clientAuthority.c_str()));
      SSL_CTX_set_verify(context_, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
    }
  }
  fd_ = openSocket(address, 0, true);
  if (fd_ < 0) return;
  sockaddr_in6 name{};
  socklen_t size = sizeof name;
  ::getsockname(fd_, reinterpret_cast<sockaddr*>(&name), &size);
  port_ = ntohs(name.sin6_port);  // at the same place in both families
  acceptor_ = std::thread([this] { accept(); });
}

FakeServer::~FakeServer() {
  stopping_ = true;
  if (acceptor_.joinable()) acceptor_.join();
  for (auto& thread : threads_) thread.join();
  if (fd_ >= 0) ::close(fd_);
  SSL_CTX_free(context_);
}

void FakeServer::accept() {
  while (!stopping_) {
    if (!readable(fd_)) continue;
    int fd = ::accept4(fd_, nullptr, nullptr, SOCK_CLOEXEC);
    if (fd < 0) continue;
    threads_.emplace_back([this, fd] { serve(fd); });
  }
}

void FakeServer::serve(int fd) {
  SSL* tls = nullptr;
  if (context_ != nullptr) {
    tls = SSL_new(context_);
    SSL_set_fd(tls, fd);
  }
  FakeConnection connection(fd, tls, stopping_);
  if (tls != nullptr && SSL_accept(tls) != 1) return connection.linger();
  FakeRequest request;
  for (bool first = true; connection.isOpen() && connection.read(request); first = false) {
    if (first) ++connections_;
    {
      std::lock_guard lock(mutex_);
      seen_.push_back(request.method + " " + request.target);
      authorizations_.push_back(request.header("authorization"));
    }
    handler_(request, connection);
  }
}

std::vector<std::string> FakeServer::seen() const {
  std::lock_guard lock(mutex_);
  return seen_;
}

std::vector<std::string> FakeServer::authorizations() const {
  std::lock_guard lock(mutex_);
  return authorizations_;
}

}  // namespace userpod::testing

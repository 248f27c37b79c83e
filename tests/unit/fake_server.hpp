// An HTTP server in the test's own process that answers what a test wants, byte by byte, in clear or by TLS.
#pragma once

#include <openssl/types.h>

#include <atomic>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace userpod::testing {

struct FakeRequest {
  std::string method, target, body;
  std::map<std::string, std::string> headers;  // names in lower case
  std::string header(const std::string& name) const;
};

class FakeConnection {
 public:
  FakeConnection(int fd, SSL* tls, const std::atomic<bool>& stopping) : fd_(fd), tls_(tls), stopping_(stopping) {}
  ~FakeConnection();
  bool send(std::string_view bytes);
  // A whole answer. `headers` are lines, each with its "\r\n".
  bool answer(int status, std::string_view body, std::string_view headers = {});
  void close() { open_ = false; }  // after the handler
  void hang();                     // until the client goes, or the server ends
  void linger();                   // that a last word arrives before the end
  void relay(int port);            // what a tunnel does, until either side goes
  bool read(FakeRequest& request);
  bool isOpen() const { return open_; }

 private:
  bool receive();
  int fd_;
  SSL* tls_;
  const std::atomic<bool>& stopping_;
  bool open_ = true;
  std::string buffer_;
};

// A certificate and what it takes to serve by it. Files are below `directory`.
class FakeAuthority {
 public:
  explicit FakeAuthority(const std::string& directory, const std::string& name = "ca");
  std::string file() const { return directory_ + "/" + name_ + ".crt"; }
  // DIRECTORY/NAME.crt and .key: for a host (IP:127.0.0.1 or DNS:name), valid from `from` to `to` seconds from now.
  void issue(const std::string& name, const std::string& alternative, long from = -3600, long to = 3600) const;

 private:
  std::string directory_, name_;
};

class FakeServer {
 public:
  using Handler = std::function<void(const FakeRequest&, FakeConnection&)>;
  struct Tls {
    std::string certificate, key;  // files; empty: in clear
    std::string clientAuthority;   // demanded of clients
  };
  explicit FakeServer(Handler handler, const Tls& tls = {}, const char* address = "127.0.0.1");
  ~FakeServer();
  int port() const { return port_; }
  std::string address() const { return host_ + ":" + std::to_string(port_); }
  int connections() const { return connections_; }
  // "METHOD TARGET" of all requests so far, and each one's Authorization.
  std::vector<std::string> seen() const;
  std::vector<std::string> authorizations() const;

 private:
  void accept();
  void serve(int fd);

  Handler handler_;
  SSL_CTX* context_ = nullptr;
  std::string host_;
  int fd_ = -1, port_ = 0;
  std::atomic<bool> stopping_ = false;
  std::atomic<int> connections_ = 0;
  mutable std::mutex mutex_;
  std::vector<std::string> seen_, authorizations_;
  std::vector<std::thread> threads_;
  std::thread acceptor_;
};

}  // namespace userpod::testing

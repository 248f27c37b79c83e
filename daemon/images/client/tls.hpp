// Whom the client trusts and as whom it shows itself: the system's authorities and certs.d, by OpenSSL.
#pragma once

#include <openssl/x509.h>

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/images/client/url.hpp"
#include "daemon/images/registries/access.hpp"
#include "daemon/sys/error.hpp"

namespace userpod::images {

// Of one host. Immutable once loaded; any thread.
class HostTls {
 public:
  ~HostTls();
  // Files that cannot be read or parsed are ConfigInvalid, which names them.
  static Result<std::shared_ptr<const HostTls>> load(const HostCertificates& certificates);
  void apply(SSL_CTX* context) const;  // the context must not outlive it
  bool hasClient() const { return !clients_.empty(); }
  bool wasAsked() const { return asked_; }  // for a client certificate, so far

 private:
  struct Client {
    X509* certificate = nullptr;
    EVP_PKEY* key = nullptr;
    STACK_OF(X509) * chain = nullptr;
  };
  HostTls() = default;
  static Result<Client> loadClient(const HostCertificates::Client& files);
  static int choose(SSL* connection, void* self);

  X509_STORE* store_ = nullptr;
  std::vector<Client> clients_;
  mutable std::atomic<bool> asked_ = false;
};

// By host, loaded when first asked for. Any thread.
class TlsHosts {
 public:
  explicit TlsHosts(Places places) : places_(std::move(places)) {}
  Result<std::shared_ptr<const HostTls>> of(const Url& url);
  // Where the user puts certificates for it.
  std::string directory(const Url& url) const;

 private:
  Places places_;
  std::mutex mutex_;
  std::map<std::string, std::shared_ptr<const HostTls>> hosts_;
};

// What failed in a handshake, by OpenSSL's verification result (0: it was none) and libcurl's text. Empty: no TLS
// failure that is known here.
struct TlsFailure {
  const HostTls& tls;
  std::string host;       // for messages
  std::string directory;  // of its certificates
  long verification = 0;
  bool peerRefused = false;  // libcurl refuses the certificate
  std::string text;

  std::optional<Error> explain() const;
  Error clientError() const;  // of a client certificate that is missing or refused
  // What is there answers, but not in TLS; or, where that is enough, ends the connection.
  bool noTls(bool orSilence) const;
};

}  // namespace userpod::images

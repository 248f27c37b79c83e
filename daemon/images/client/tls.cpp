#include "daemon/images/client/tls.hpp"

#include <fmt/core.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509_vfy.h>

#include <cstdlib>
#include <filesystem>

#include "daemon/sys/util.hpp"

namespace userpod::images {

namespace {

std::string lastReason() {
  auto code = ERR_peek_last_error();
  const char* reason = ERR_reason_error_string(code);
  ERR_clear_error();
  return reason == nullptr ? "no PEM file of that kind, or not readable" : reason;
}

Error badFile(const std::string& file, const std::string& why) {
  return Error(Code::ConfigInvalid, fmt::format("{}: {}", file, why));
}

// A key behind a password is an error: nobody is there to be asked.
int noPassword(char*, int, int, void*) {
  return -1;
}

using File = std::unique_ptr<BIO, int (*)(BIO*)>;

File openFile(const std::string& name) {
  return {BIO_new_file(name.c_str(), "r"), BIO_free};
}

bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

// Whether the bundle is made of the certificates in its directory, which are there by their hashes too, as
// update-ca-certificates leaves them. Nobody has said otherwise by OpenSSL's variables.
bool isHashed() {
  if (std::getenv(X509_get_default_cert_file_env()) != nullptr ||
      std::getenv(X509_get_default_cert_dir_env()) != nullptr)
    return false;
  std::error_code failed;
  auto bundle = std::filesystem::canonical(X509_get_default_cert_file(), failed);
  auto directory = std::filesystem::canonical(X509_get_default_cert_dir(), failed);
  if (failed || bundle.parent_path() != directory) return false;
  for (const auto& entry : std::filesystem::directory_iterator(directory, failed))
    if (entry.path().extension() == ".0") return true;
  return false;
}

// A directory of hashes is read when a certificate is looked for, and only that one; the bundle at once and whole,
// which takes 20 ms.
void trustSystem(X509_STORE* store) {
  X509_LOOKUP* lookup = isHashed() ? X509_STORE_add_lookup(store, X509_LOOKUP_hash_dir()) : nullptr;
  if (lookup == nullptr || X509_LOOKUP_add_dir(lookup, nullptr, X509_FILETYPE_DEFAULT) != 1)
    X509_STORE_set_default_paths(store);
}

}  // namespace

HostTls::~HostTls() {
  X509_STORE_free(store_);
  for (auto& client : clients_) {
    X509_free(client.certificate);
    EVP_PKEY_free(client.key);
    sk_X509_pop_free(client.chain, X509_free);
  }
}

Result<HostTls::Client> HostTls::loadClient(const HostCertificates::Client& files) {
  Client client;
  auto certificate = openFile(files.certificate);
  if (certificate) client.certificate = PEM_read_bio_X509_AUX(certificate.get(), nullptr, noPassword, nullptr);
  if (client.certificate == nullptr) return badFile(files.certificate, lastReason());
  client.chain = sk_X509_new_null();
  while (X509* next = PEM_read_bio_X509(certificate.get(), nullptr, noPassword, nullptr))
    sk_X509_push(client.chain, next);
  ERR_clear_error();  // the end of the file
  auto key = openFile(files.key);
  if (key) client.key = PEM_read_bio_PrivateKey(key.get(), nullptr, noPassword, nullptr);
  std::optional<Error> failure;
  if (client.key == nullptr)
    failure = badFile(files.key, lastReason() + " (a key must have no password)");
  else if (X509_check_private_key(client.certificate, client.key) != 1)
    failure = badFile(files.key, "this key does not belong to " + files.certificate);
  if (!failure) return client;
  ERR_clear_error();
  X509_free(client.certificate);
  EVP_PKEY_free(client.key);
  sk_X509_pop_free(client.chain, X509_free);
  return *std::move(failure);
}

Result<std::shared_ptr<const HostTls>> HostTls::load(const HostCertificates& certificates) {
  std::shared_ptr<HostTls> tls(new HostTls);
  ERR_clear_error();
  tls->store_ = X509_STORE_new();
  if (tls->store_ == nullptr) std::abort();  // no memory at all
  trustSystem(tls->store_);
  // A certificate of certs.d may be the server's own, or an intermediate one: it needs no root above it.
  X509_STORE_set_flags(tls->store_, X509_V_FLAG_TRUSTED_FIRST | X509_V_FLAG_PARTIAL_CHAIN);
  for (const auto& file : certificates.authorities) {
    ERR_clear_error();
    if (X509_STORE_load_file(tls->store_, file.c_str()) != 1) return badFile(file, lastReason());
  }
  for (const auto& files : certificates.clients) {
    ERR_clear_error();
    USERPOD_TRY(client, loadClient(files));
    tls->clients_.push_back(client);
  }
  ERR_clear_error();
  return std::shared_ptr<const HostTls>(std::move(tls));
}

// Shows the first certificate whose issuer the server names, else the first of all: a server need not name any.
int HostTls::choose(SSL* connection, void* self) {
  const auto& tls = *static_cast<const HostTls*>(self);
  tls.asked_ = true;
  const auto& clients = tls.clients_;
  if (clients.empty()) return 1;
  const auto* names = SSL_get0_peer_CA_list(connection);
  const Client* chosen = &clients.front();
  bool found = false;
  for (const auto& client : clients)
    for (int i = 0; !found && names != nullptr && i < sk_X509_NAME_num(names); ++i)
      if (X509_NAME_cmp(X509_get_issuer_name(client.certificate), sk_X509_NAME_value(names, i)) == 0) {
        chosen = &client;
        found = true;
      }
  return SSL_use_cert_and_key(connection, chosen->certificate, chosen->key, chosen->chain, 1);
}

void HostTls::apply(SSL_CTX* context) const {
  SSL_CTX_set1_cert_store(context, store_);
  SSL_CTX_set_cert_cb(context, &HostTls::choose, const_cast<HostTls*>(this));
}

std::string TlsHosts::directory(const Url& url) const {
  // Docker Hub is known by the name that images have.
  bool hub = url.host == "registry-1.docker.io" && url.given.empty();
  return fmt::format("{}/containers/certs.d/{}", places_.config, hub ? "docker.io" : url.authority());
}

Result<std::shared_ptr<const HostTls>> TlsHosts::of(const Url& url) {
  auto where = directory(url);
  auto host = where.substr(where.rfind('/') + 1);
  std::lock_guard lock(mutex_);
  if (auto found = hosts_.find(host); found != hosts_.end()) return found->second;
  USERPOD_TRY(certificates, hostCertificates(places_, host));
  USERPOD_TRY(tls, HostTls::load(certificates));
  hosts_.emplace(host, tls);
  return tls;
}

bool TlsFailure::noTls(bool orSilence) const {
  for (const char* part :
       {"wrong version number", "packet length too long", "http request", "unknown protocol", "bad record type"})
    if (contains(text, part)) return true;
  for (const char* part : {"unexpected eof", "SSL_ERROR_SYSCALL", "Connection reset by peer"})
    if (orSilence && contains(text, part)) return true;
  return false;
}

std::optional<Error> TlsFailure::explain() const {
  auto unreachable = [&](const std::string& why) { return Error(Code::RegistryUnreachable, host + ": " + why); };
  // libcurl's own check, of a good chain.
  if (peerRefused && contains(text, "subject name"))
    return unreachable("its certificate is for another host name; ask for it by a name of the certificate");
  if (peerRefused) switch (verification) {
      case X509_V_ERR_CERT_HAS_EXPIRED:
        return unreachable("its certificate, or one above it, has expired; the registry has to renew it");
      case X509_V_ERR_CERT_NOT_YET_VALID:
        return unreachable("its certificate is not valid yet; is this machine's clock right?");
      case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
      case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
      case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
      case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
      case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
      case X509_V_ERR_CERT_UNTRUSTED:
        return unreachable(
            fmt::format("its certificate is signed by an unknown authority; put the authority's "
                        "certificate, in PEM, into {}/ca.crt, or name the registry insecure in "
                        "registries.conf",
                        directory));
      default:
        return unreachable(fmt::format("its certificate is refused: {}", X509_verify_cert_error_string(verification)));
    }
  bool demands =
      contains(text, "certificate required") ||
      (tls.wasAsked() && (contains(text, "alert bad certificate") || contains(text, "alert handshake failure")));
  bool refuses = contains(text, "alert unknown ca") || contains(text, "alert certificate expired") ||
                 contains(text, "alert certificate unknown") || contains(text, "alert certificate revoked") ||
                 contains(text, "alert access denied");
  if (!demands && !(refuses && tls.hasClient())) return {};
  return clientError();
}

Error TlsFailure::clientError() const {
  if (tls.hasClient())
    return Error(Code::RegistryDenied,
                 fmt::format("{}: the registry refuses the client certificate of {}", host, directory));
  return Error(Code::RegistryAuthRequired,
               fmt::format("{}: the registry demands a client certificate; put it into {} as client.cert and "
                           "client.key",
                           host, directory));
}

}  // namespace userpod::images

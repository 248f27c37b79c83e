// What a registry is shown of the user: certificates of certs.d(5) and credentials of auth.json(5), Docker's
// config.json and credential helpers. Read when needed; nothing of it is ever logged or quoted in an error.
#pragma once

#include <string>
#include <vector>

#include "daemon/images/registries/places.hpp"
#include "daemon/sys/error.hpp"

namespace userpod::images {

struct Credentials {
  std::string username;
  std::string password;
  std::string identityToken;  // an OAuth2 refresh token, instead of name and password
  std::string registryToken;  // a bearer token, sent as it is
  // host[:port] that they are for, when the caller said so (a scheme and a path are dropped, Docker Hub's old names are
  // docker.io); empty: the registry of the image's name.
  std::string serverAddress;

  bool empty() const { return username.empty() && password.empty() && identityToken.empty() && registryToken.empty(); }
  bool operator==(const Credentials&) const = default;
};

// Of one repository, "path" as in a reference: the longest namespace that the first file with a fitting entry has; per
// file credHelpers before auths before credsStore. Empty credentials: nobody has any. ConfigInvalid names the file (and
// line where there is one) that cannot be read or parsed; HelperMissing, RegistryDenied (the helper's own words)
// name the helper. May run a helper: blocks up to 30 s; any thread.
Result<Credentials> findCredentials(const Places& places, const std::string& host, const std::string& path);

struct HostCertificates {
  struct Client {
    std::string certificate;  // paths of PEM files
    std::string key;
  };
  std::vector<std::string> authorities;  // PEM files, trusted beside the system's
  std::vector<Client> clients;
};

// Of the first directory that is there: ~/.config/containers/certs.d/HOST, /etc/containers/certs.d/HOST,
// /etc/docker/certs.d/HOST. ConfigInvalid: a certificate without its key or the other way round, or what cannot be
// read; it names the file.
Result<HostCertificates> hostCertificates(const Places& places, const std::string& host);

}  // namespace userpod::images

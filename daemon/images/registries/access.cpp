#include "daemon/images/registries/access.hpp"

namespace userpod::images {

Result<Credentials> findCredentials(const Places&, const std::string&, const std::string&) {
  return Credentials{};
}

Result<HostCertificates> hostCertificates(const Places&, const std::string&) {
  return HostCertificates{};
}

}  // namespace userpod::images

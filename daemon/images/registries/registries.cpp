#include "daemon/images/registries/registries.hpp"

#include <arpa/inet.h>

#include <cstdlib>

#include "daemon/sys/util.hpp"

namespace userpod::images {

namespace {

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

bool isLoopback(std::string_view host) {
  if (!host.empty() && host.front() == '[') return host.substr(0, host.find(']') + 1) == "[::1]";
  auto name = host.substr(0, host.find(':'));
  in_addr address{};
  if (::inet_pton(AF_INET, std::string(name).c_str(), &address) == 1) return (ntohl(address.s_addr) >> 24) == 127;
  return name == "localhost";
}

class DefaultRegistries : public Registries {
 public:
  Result<std::vector<Candidate>> candidates(const Reference& reference) const override {
    std::vector<Candidate> found;
    for (auto& name : names(reference)) {
      Endpoint endpoint{.host = name.host, .path = name.path, .loopback = isLoopback(name.host)};
      found.push_back({std::move(name), {std::move(endpoint)}});
    }
    return found;
  }
  std::vector<Reference> names(const Reference& reference) const override {
    Reference name = reference;
    if (!name.digest.empty())
      name.tag.clear();
    else if (name.tag.empty())
      name.tag = "latest";
    if (name.isShort()) name.host = "docker.io";
    if (name.host == "docker.io" && name.path.find('/') == std::string::npos) name.path = "library/" + name.path;
    return {std::move(name)};
  }
  const std::vector<std::string>& warnings() const override { return warnings_; }

 private:
  std::vector<std::string> warnings_;
};

}  // namespace

Places userPlaces() {
  Places places;
  places.registriesConf = variable("CONTAINERS_REGISTRIES_CONF");
  places.registriesOverride = variable("CONTAINERS_REGISTRIES_CONF_OVERRIDE");
  places.home = variable("HOME");
  places.config = variable("XDG_CONFIG_HOME");
  if (places.config.empty()) places.config = places.home + "/.config";
  places.cache = variable("XDG_CACHE_HOME");
  if (places.cache.empty()) places.cache = places.home + "/.cache";
  places.runtime = variable("XDG_RUNTIME_DIR");
  places.authFile = variable("REGISTRY_AUTH_FILE");
  places.dockerConfig = variable("DOCKER_CONFIG");
  if (places.dockerConfig.empty()) places.dockerConfig = places.home + "/.docker";
  for (const auto& part : split(variable("PATH"), ':'))
    if (!part.empty() && part.front() == '/') places.path.push_back(part);
  return places;
}

struct RegistriesFiles::State {
  std::shared_ptr<const Registries> registries = std::make_shared<DefaultRegistries>();
};

RegistriesFiles::RegistriesFiles(Places) : state_(std::make_unique<State>()) {}
RegistriesFiles::~RegistriesFiles() = default;

Result<std::shared_ptr<const Registries>> RegistriesFiles::current() {
  return state_->registries;
}

Result<std::shared_ptr<const Registries>> loadRegistries(const Places&) {
  return std::shared_ptr<const Registries>(std::make_shared<DefaultRegistries>());
}

}  // namespace userpod::images

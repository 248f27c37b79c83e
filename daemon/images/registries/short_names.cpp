// Names without a registry: as shortnames.Resolve and ResolveLocally of containers/image without a terminal.
#include <fmt/core.h>

#include "daemon/images/registries/registries_conf.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::images {

namespace {

const std::vector<std::string>& searchRegistriesOf(const RegistriesConf& conf) {
  static const std::vector<std::string> dockerHub = {"docker.io"};
  return conf.searchRegistries ? *conf.searchRegistries : dockerHub;
}

const Alias* aliasOf(const RegistriesConf& conf, const Reference& name) {
  auto found = conf.aliases.find(name.path);
  return found == conf.aliases.end() || found->second.name.host.empty() ? nullptr : &found->second;
}

Reference aliased(const Alias& alias, const Reference& name) {
  Reference full = name;
  full.host = alias.name.host;
  full.path = alias.name.path;
  return completed(std::move(full));
}

// Empty where the registry makes the name too long.
std::optional<Reference> at(const std::string& registry, const Reference& name) {
  auto full = parseReference(registry + "/" + name.path);
  if (!full) return std::nullopt;
  full->tag = name.tag;
  full->digest = name.digest;
  return completed(std::move(*full));
}

std::string listed(const std::vector<std::string>& texts) {
  std::string list;
  for (const auto& text : texts) list += (list.empty() ? "" : ", ") + text;
  return list;
}

}  // namespace

Reference completed(Reference name) {
  if (!name.digest.empty()) {
    name.tag.clear();
  } else if (name.tag.empty()) {
    name.tag = "latest";
  }
  if (canonicalHost(name.host) == "docker.io") {
    name.host = "docker.io";
    if (name.path.find('/') == std::string::npos) name.path = "library/" + name.path;
  }
  return name;
}

Result<std::vector<Reference>> resolveShortName(const RegistriesConf& conf, const Reference& name) {
  if (const auto* alias = aliasOf(conf, name)) return std::vector<Reference>{aliased(*alias, name)};
  const auto& registries = searchRegistriesOf(conf);
  auto refused = [&](const std::string& why) {
    return Error(Code::InvalidArgument,
                 fmt::format("short name {}: {}; write the full name, REGISTRY/{}, or an alias into [aliases] of "
                             "registries.conf",
                             name.path, why, name.path));
  };
  if (registries.empty())
    return refused("there is no alias, and unqualified-search-registries is empty in " + conf.searchOrigin);
  if (registries.size() > 1 && conf.shortNameMode == ShortNameMode::Enforcing)
    return refused(fmt::format("it may be of {} ({}), and short-name-mode is enforcing in {}", listed(registries),
                               conf.searchOrigin, conf.shortNameModeOrigin));
  std::vector<Reference> names;
  for (const auto& registry : registries)
    if (auto full = at(registry, name)) names.push_back(std::move(*full));
  if (names.empty()) return refused("longer than 255 characters with " + listed(registries));
  return names;
}

std::vector<Reference> shortNameCandidates(const RegistriesConf& conf, const Reference& name) {
  if (const auto* alias = aliasOf(conf, name)) return {aliased(*alias, name)};
  std::vector<Reference> names;
  // What was built or loaded here and got no registry is called localhost/NAME by the tools that do so.
  if (auto local = at("localhost", name)) names.push_back(std::move(*local));
  for (const auto& registry : searchRegistriesOf(conf))
    if (auto full = at(registry, name)) names.push_back(std::move(*full));
  return names;
}

}  // namespace userpod::images

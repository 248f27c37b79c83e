#include "daemon/images/registries/registries.hpp"

#include <arpa/inet.h>
#include <fmt/core.h>

#include <algorithm>

#include "daemon/images/registries/registries_conf.hpp"

namespace userpod::images {

namespace {

bool isLoopback(std::string_view host) {
  if (!host.empty() && host.front() == '[') return host.substr(0, host.find(']') + 1) == "[::1]";
  auto name = host.substr(0, host.find(':'));
  in_addr address{};
  if (::inet_pton(AF_INET, std::string(name).c_str(), &address) == 1) return (ntohl(address.s_addr) >> 24) == 127;
  return canonicalHost(name) == "localhost";
}

// Of "*.example.com", whose match ends with the host's name, before its port.
std::size_t matchWildcard(std::string_view prefix, std::string_view host) {
  auto domain = prefix.substr(1);
  auto name = host.substr(0, host.find(':'));
  return name.size() > domain.size() && name.ends_with(domain) ? name.size() : 0;
}

// How much of the name (host in lower case, path, tag or digest) the prefix covers; 0: it is not one.
std::size_t matchLength(std::string_view prefix, std::string_view host, std::string_view name) {
  if (prefix.starts_with("*.")) return matchWildcard(prefix, host);
  if (!name.starts_with(prefix)) return 0;
  if (name.size() == prefix.size()) return prefix.size();
  char next = name[prefix.size()];
  // A colon within the host begins a port: that is another registry.
  bool boundary = next == '/' || ((next == ':' || next == '@') && prefix.size() > host.size());
  return boundary ? prefix.size() : 0;
}

class ConfiguredRegistries : public Registries {
 public:
  explicit ConfiguredRegistries(RegistriesConf conf) : conf_(std::move(conf)) {
    if (conf_.credentialHelpers) helpers_ = std::move(*conf_.credentialHelpers);
    if (helpers_.empty()) helpers_ = {kAuthFilesHelper};
  }

  Result<std::vector<Candidate>> candidates(const Reference& reference) const override {
    std::vector<Reference> names;
    if (reference.isShort()) {
      USERPOD_TRY(found, resolveShortName(conf_, reference));
      names = std::move(found);
    } else {
      names.push_back(completed(reference));
    }
    std::vector<Candidate> candidates;
    std::optional<Error> blocked;
    for (auto& name : names) {
      auto candidate = candidateOf(std::move(name));
      if (candidate) {
        candidates.push_back(std::move(*candidate));
      } else if (candidate.error().code() == Code::RegistryDenied) {
        if (!blocked) blocked = std::move(candidate).error();
      } else {
        return std::move(candidate).error();
      }
    }
    if (blocked && candidates.empty()) return *std::move(blocked);
    return candidates;
  }

  std::vector<Reference> names(const Reference& reference) const override {
    if (reference.isShort()) return shortNameCandidates(conf_, reference);
    return {completed(reference)};
  }

  const std::vector<std::string>& warnings() const override { return conf_.warnings; }
  const std::vector<std::string>& credentialHelpers() const override { return helpers_; }

 private:
  static Error blockedError(const Reference& name, const RegistryTable& table) {
    return {Code::RegistryDenied,
            fmt::format("{} is blocked: {} at {}", name.repository(), table.prefix, table.origin)};
  }

  Result<Candidate> candidateOf(Reference name) const {
    auto match = matchPrefix(conf_.registries, name);
    Candidate candidate;
    if (match.table != nullptr) {
      if (match.table->blocked) return blockedError(name, *match.table);
      bool digest = !name.digest.empty();
      for (const auto& mirror : match.table->mirrors) {
        if (mirror.use == (digest ? PullFromMirror::TagOnly : PullFromMirror::DigestOnly)) continue;
        USERPOD_CHECK(addEndpoint(candidate, name, match, mirror.location, mirror.insecure, true));
      }
    }
    std::string location = match.table == nullptr ? "" : match.table->location;
    USERPOD_CHECK(
        addEndpoint(candidate, name, match, location, match.table != nullptr && match.table->insecure, false));
    // Every place that it leads to is blocked itself.
    if (candidate.endpoints.empty()) return blockedError(name, *blockedAt(name, match, location));
    candidate.name = std::move(name);
    return candidate;
  }

  // The name with `location` in place of what the prefix covers.
  static Result<Reference> rewritten(const Reference& name, const PrefixMatch& match, const std::string& location) {
    if (location.empty()) return name;
    auto place = parseReference(location + name.repository().substr(std::min(match.length, name.repository().size())));
    if (!place || place->isShort() || !place->tag.empty())
      return Error(Code::ConfigInvalid,
                   fmt::format("{}: location {} makes no repository of {}; prefix and location must "
                               "end at the same part of the name",
                               match.table->origin, location, name.repository()));
    place->tag = name.tag;
    place->digest = name.digest;
    return completed(std::move(*place));
  }

  const RegistryTable* blockedAt(const Reference& name, const PrefixMatch& match, const std::string& location) const {
    auto place = rewritten(name, match, location);
    auto there = place ? matchPrefix(conf_.registries, *place).table : nullptr;
    return there != nullptr && there->blocked ? there : nullptr;
  }

  // A place that is blocked as a name of its own is left out.
  Status addEndpoint(Candidate& candidate, const Reference& name, const PrefixMatch& match, const std::string& location,
                     bool insecure, bool mirror) const {
    USERPOD_TRY(place, rewritten(name, match, location));
    if (blockedAt(name, match, location) != nullptr) return {};
    bool elsewhere = canonicalHost(place.host) != canonicalHost(name.host);
    candidate.endpoints.push_back({.host = place.host,
                                   .path = place.path,
                                   .insecure = insecure,
                                   .loopback = isLoopback(place.host),
                                   .mirror = mirror || elsewhere});
    return {};
  }

  RegistriesConf conf_;
  std::vector<std::string> helpers_;
};

}  // namespace

PrefixMatch matchPrefix(const std::vector<RegistryTable>& tables, const Reference& name) {
  auto host = canonicalHost(name.host);
  auto text = host + "/" + name.path;
  if (!name.digest.empty()) {
    text += "@" + name.digest;
  } else if (!name.tag.empty()) {
    text += ":" + name.tag;
  }
  PrefixMatch best;
  for (const auto& table : tables) {
    auto length = matchLength(table.prefix, host, text);
    if (length == 0 || (best.table != nullptr && table.prefix.size() <= best.table->prefix.size())) continue;
    best = {&table, length};
  }
  return best;
}

std::shared_ptr<const Registries> makeRegistries(RegistriesConf conf) {
  return std::make_shared<ConfiguredRegistries>(std::move(conf));
}

}  // namespace userpod::images

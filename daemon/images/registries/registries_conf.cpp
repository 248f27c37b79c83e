#include "daemon/images/registries/registries_conf.hpp"

#include <fmt/core.h>
#include <toml++/toml.h>

#include <algorithm>
#include <functional>

#include "daemon/images/registries/credential_helper.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::images {

namespace {

constexpr std::size_t kMostBytes = 1U << 20;
constexpr std::size_t kMostRegistries = 4096;
constexpr std::size_t kMostMirrors = 64;
constexpr std::size_t kMostSearchRegistries = 64;
constexpr std::size_t kMostAliases = 16384;

struct Reading {
  const std::string& file;
  RegistriesConf& conf;
};

std::string place(const Reading& reading, const toml::node& node) {
  return fmt::format("{}:{}", reading.file, node.source().begin.line);
}

Error bad(const Reading& reading, const toml::node& node, std::string_view key, std::string_view what) {
  return {Code::ConfigInvalid, fmt::format("{}: {}: {}", place(reading, node), excerpt(key), what)};
}

std::string quoted(std::string_view value) {
  return "\"" + excerpt(value) + "\"";
}

// ---- values

Result<std::string> readText(const Reading& reading, const toml::node& node, std::string_view key) {
  auto value = node.value<std::string>();
  if (!node.is_string() || !value) return bad(reading, node, key, "must be a string, in quotation marks");
  return *value;
}

Status readFlag(const Reading& reading, const toml::node& node, std::string_view key, bool& into) {
  if (!node.is_boolean()) return bad(reading, node, key, "must be true or false, without quotation marks");
  into = node.value<bool>().value_or(false);
  return {};
}

Result<std::vector<std::string>> readTexts(const Reading& reading, const toml::node& node, std::string_view key,
                                           std::size_t most) {
  const auto* array = node.as_array();
  if (array == nullptr) return bad(reading, node, key, "must be a list of strings: [\"...\"]");
  if (array->size() > most) return bad(reading, node, key, fmt::format("has more than {} entries", most));
  std::vector<std::string> texts;
  for (const auto& item : *array) {
    USERPOD_TRY(text, readText(reading, item, key));
    texts.push_back(std::move(text));
  }
  return texts;
}

// ---- places: host[:port][/path]

bool isWildcard(std::string_view prefix) {
  return prefix.starts_with("*.");
}

Status checkWildcard(const Reading& reading, const toml::node& node, std::string_view key, const std::string& value) {
  auto domain = value.substr(2);
  auto good = domain.find_first_of("/@:*[") == std::string::npos && parseReference(domain + ":1/x");
  if (good) return {};
  return bad(reading, node, key,
             quoted(value) +
                 " is not of the form *.example.com: a wildcard stands for whole subdomains, and "
                 "neither port nor path may follow");
}

// A host that is one in lower case, too: letters alone would be taken for the first part of a path.
bool isRegistry(const std::string& host) {
  auto parsed = parseReference(canonicalHost(host) + "/x");
  return parsed && !parsed->isShort() && host.find('/') == std::string::npos;
}

// The value without a slash at its end and with its host as names have it; empty where the value is.
Result<std::string> readPlace(const Reading& reading, const toml::node& node, std::string_view key) {
  USERPOD_TRY(value, readText(reading, node, key));
  std::string text = value;
  if (text.empty()) return text;  // as if it were not there
  while (text.ends_with('/')) text.pop_back();
  if (text.find("://") != std::string::npos)
    return bad(reading, node, key,
               quoted(value) + " has a scheme; write HOST[:PORT][/PATH], and insecure = true for plain HTTP");
  if (text.find('*') != std::string::npos && !isWildcard(text))
    return bad(reading, node, key, quoted(value) + " has a wildcard; only a prefix may, as in *.example.com");
  if (isWildcard(text)) {
    if (key != "prefix") return bad(reading, node, key, quoted(value) + " has a wildcard; only a prefix may");
    USERPOD_CHECK(checkWildcard(reading, node, key, text));
    return canonicalHost(text);
  }
  auto slash = text.find('/');
  auto parsed = parseReference(slash == std::string::npos ? text + "/x" : text);
  if (!parsed) return bad(reading, node, key, parsed.error().text());
  if (!isRegistry(parsed->host))
    return bad(reading, node, key,
               quoted(value) + " does not begin with a registry: a host with a dot or a port, or localhost");
  if (key != "prefix" && !(parsed->tag.empty() && parsed->digest.empty()))
    return bad(reading, node, key, quoted(value) + " has a tag or a digest; those of the image's name are used");
  return canonicalHost(parsed->host) + (slash == std::string::npos ? "" : text.substr(slash));
}

// ---- unknown keys

std::size_t editDistance(std::string_view one, std::string_view other) {
  std::vector<std::size_t> row(other.size() + 1);
  for (std::size_t i = 0; i <= other.size(); ++i) row[i] = i;
  for (std::size_t i = 1; i <= one.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= other.size(); ++j) {
      auto above = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (one[i - 1] == other[j - 1] ? 0 : 1)});
      diagonal = above;
    }
  }
  return row[other.size()];
}

void warn(Reading& reading, std::string text) {
  constexpr std::size_t kMost = 50;
  auto& warnings = reading.conf.warnings;
  if (warnings.size() < kMost) {
    warnings.push_back(std::move(text));
  } else if (warnings.size() == kMost) {
    warnings.push_back(reading.file + ": more than can be listed");
  }
}

void warnUnknown(Reading& reading, const toml::node& node, std::string_view key,
                 const std::vector<std::string_view>& known) {
  auto spelled = key.substr(0, 60);
  std::string_view nearest;
  std::size_t distance = std::max<std::size_t>(2, spelled.size() / 3) + 1;
  for (auto word : known)
    if (auto steps = editDistance(spelled, word); steps < distance) {
      distance = steps;
      nearest = word;
    }
  std::string mend = nearest.empty() ? "remove it" : fmt::format("did you mean {}?", nearest);
  warn(reading,
       fmt::format("{}: {}: is not a known key here and ignored; {}", place(reading, node), excerpt(key, 60), mend));
}

// Reads each key of a table by its reader; others are warned of.
template <typename Into>
struct Key {
  std::string_view name;
  Status (*read)(Reading& reading, const toml::node& node, std::string_view key, Into& into);
};

template <typename Into, std::size_t Count>
Status readKeys(Reading& reading, const toml::table& table, const Key<Into> (&keys)[Count], Into& into) {
  for (const auto& [name, node] : table) {
    std::string_view spelled = name.str();
    auto key = std::find_if(std::begin(keys), std::end(keys), [&](const auto& one) { return one.name == spelled; });
    if (key != std::end(keys)) {
      USERPOD_CHECK(key->read(reading, node, key->name, into));
      continue;
    }
    std::vector<std::string_view> known;
    for (const auto& one : keys) known.push_back(one.name);
    warnUnknown(reading, node, spelled, known);
  }
  return {};
}

// ---- [[registry.mirror]]

struct MirrorReading {
  MirrorTable table;
  const toml::node* use = nullptr;  // where pull-from-mirror stands
};

Status readUse(Reading& reading, const toml::node& node, std::string_view key, MirrorReading& mirror) {
  USERPOD_TRY(value, readText(reading, node, key));
  if (value.empty()) return {};
  mirror.use = &node;
  if (value == "all") {
    mirror.table.use = PullFromMirror::All;
  } else if (value == "digest-only") {
    mirror.table.use = PullFromMirror::DigestOnly;
  } else if (value == "tag-only") {
    mirror.table.use = PullFromMirror::TagOnly;
  } else {
    return bad(reading, node, key, quoted(value) + " is not one of all, digest-only, tag-only");
  }
  return {};
}

constexpr Key<MirrorReading> kMirrorKeys[] = {
    {"location",
     [](Reading& reading, const toml::node& node, std::string_view key, MirrorReading& mirror) -> Status {
       USERPOD_TRY(location, readPlace(reading, node, key));
       mirror.table.location = std::move(location);
       return {};
     }},
    {"insecure",
     [](Reading& reading, const toml::node& node, std::string_view key, MirrorReading& mirror) -> Status {
       return readFlag(reading, node, key, mirror.table.insecure);
     }},
    {"pull-from-mirror", readUse},
};

// ---- [[registry]]

struct RegistryReading {
  RegistryTable table;
  bool mirrorByDigestOnly = false;
  const toml::node* someUse = nullptr;  // where the first pull-from-mirror of its mirrors stands
};

Status readMirrors(Reading& reading, const toml::node& node, std::string_view key, RegistryReading& registry) {
  const auto* array = node.as_array();
  if (array == nullptr) return bad(reading, node, key, "must be tables written [[registry.mirror]]");
  if (array->size() > kMostMirrors)
    return bad(reading, node, key, fmt::format("more than {} of one registry", kMostMirrors));
  for (const auto& item : *array) {
    const auto* table = item.as_table();
    if (table == nullptr) return bad(reading, item, key, "must be tables written [[registry.mirror]]");
    MirrorReading mirror;
    USERPOD_CHECK(readKeys(reading, *table, kMirrorKeys, mirror));
    if (mirror.table.location.empty()) return bad(reading, item, key, "has no location; write location = \"HOST\"");
    if (mirror.use != nullptr && registry.someUse == nullptr) registry.someUse = mirror.use;
    registry.table.mirrors.push_back(std::move(mirror.table));
  }
  return {};
}

constexpr Key<RegistryReading> kRegistryKeys[] = {
    {"prefix",
     [](Reading& reading, const toml::node& node, std::string_view key, RegistryReading& registry) -> Status {
       USERPOD_TRY(prefix, readPlace(reading, node, key));
       registry.table.prefix = std::move(prefix);
       return {};
     }},
    {"location",
     [](Reading& reading, const toml::node& node, std::string_view key, RegistryReading& registry) -> Status {
       USERPOD_TRY(location, readPlace(reading, node, key));
       registry.table.location = std::move(location);
       return {};
     }},
    {"insecure",
     [](Reading& reading, const toml::node& node, std::string_view key, RegistryReading& registry) -> Status {
       return readFlag(reading, node, key, registry.table.insecure);
     }},
    {"blocked",
     [](Reading& reading, const toml::node& node, std::string_view key, RegistryReading& registry) -> Status {
       return readFlag(reading, node, key, registry.table.blocked);
     }},
    {"mirror-by-digest-only",
     [](Reading& reading, const toml::node& node, std::string_view key, RegistryReading& registry) -> Status {
       return readFlag(reading, node, key, registry.mirrorByDigestOnly);
     }},
    {"mirror", readMirrors},
    {"pull-from-mirror",
     [](Reading& reading, const toml::node& node, std::string_view key, RegistryReading&) -> Status {
       return bad(reading, node, key,
                  "belongs to a mirror; write it into [[registry.mirror]], or mirror-by-digest-only here");
     }},
};

Status readRegistry(Reading& reading, const toml::node& node, std::string_view key) {
  const auto* table = node.as_table();
  if (table == nullptr) return bad(reading, node, key, "must be tables written [[registry]]");
  RegistryReading registry;
  USERPOD_CHECK(readKeys(reading, *table, kRegistryKeys, registry));
  auto& entry = registry.table;
  entry.origin = place(reading, node);
  if (entry.prefix.empty() && entry.location.empty())
    return bad(reading, node, key, "has neither prefix nor location; write location = \"HOST\"");
  if (registry.mirrorByDigestOnly && registry.someUse != nullptr)
    return bad(reading, *registry.someUse, "pull-from-mirror",
               fmt::format("contradicts mirror-by-digest-only of the registry at line {}; remove one of them",
                           node.source().begin.line));
  if (registry.mirrorByDigestOnly)
    for (auto& mirror : entry.mirrors) mirror.use = PullFromMirror::DigestOnly;
  if (entry.prefix.empty()) entry.prefix = entry.location;
  // The name as it is: as the manual has it, location is the prefix unless it is given.
  if (entry.location == entry.prefix) entry.location.clear();
  reading.conf.registries.push_back(std::move(entry));
  return {};
}

// One place may not be both: which of the two a pull would meet depended on the name alone.
Status checkConflicts(const RegistriesConf& conf) {
  std::map<std::string_view, const RegistryTable*> byPlace;
  for (const auto& table : conf.registries) {
    auto [found, fresh] = byPlace.emplace(table.location.empty() ? table.prefix : table.location, &table);
    if (fresh) continue;
    const auto& other = *found->second;
    const char* key = table.insecure != other.insecure ? "insecure"
                      : table.blocked != other.blocked ? "blocked"
                                                       : nullptr;
    if (key != nullptr)
      return Error(Code::ConfigInvalid,
                   fmt::format("{}: {}: contradicts {}, which has the same location {}; make them equal", table.origin,
                               key, other.origin, found->first));
  }
  return {};
}

// The first of equal prefixes counts, as containers/image has it.
void dropRepeated(Reading& reading) {
  std::map<std::string, std::string> first;
  std::erase_if(reading.conf.registries, [&](const RegistryTable& table) {
    auto [found, fresh] = first.emplace(table.prefix, table.origin);
    if (!fresh)
      warn(reading, fmt::format("{}: prefix: {} is at {} already, which counts; remove one of them", table.origin,
                                table.prefix, found->second));
    return !fresh;
  });
}

Status readRegistries(Reading& reading, const toml::node& node, std::string_view key, RegistriesConf& conf) {
  const auto* array = node.as_array();
  if (array == nullptr) return bad(reading, node, key, "must be tables written [[registry]], with two brackets");
  if (array->size() > kMostRegistries) return bad(reading, node, key, fmt::format("more than {}", kMostRegistries));
  for (const auto& item : *array) USERPOD_CHECK(readRegistry(reading, item, key));
  USERPOD_CHECK(checkConflicts(conf));
  dropRepeated(reading);
  return {};
}

// ---- the rest of the top

Status readSearch(Reading& reading, const toml::node& node, std::string_view key, RegistriesConf& conf) {
  USERPOD_TRY(texts, readTexts(reading, node, key, kMostSearchRegistries));
  std::vector<std::string> hosts;
  for (const auto& text : texts) {
    std::string host = text;
    while (host.ends_with('/')) host.pop_back();
    if (!isRegistry(host))
      return bad(reading, node, key, quoted(text) + " is not HOST[:PORT] with a dot or a port, or localhost");
    host = canonicalHost(host);
    if (std::find(hosts.begin(), hosts.end(), host) == hosts.end()) hosts.push_back(host);
  }
  conf.searchRegistries = std::move(hosts);
  conf.searchOrigin = place(reading, node);
  return {};
}

Status readMode(Reading& reading, const toml::node& node, std::string_view key, RegistriesConf& conf) {
  USERPOD_TRY(value, readText(reading, node, key));
  if (value.empty()) return {};
  if (value != "enforcing" && value != "permissive" && value != "disabled")
    return bad(reading, node, key, quoted(value) + " is not one of enforcing, permissive, disabled");
  conf.shortNameMode = value == "enforcing"    ? ShortNameMode::Enforcing
                       : value == "permissive" ? ShortNameMode::Permissive
                                               : ShortNameMode::Disabled;
  conf.shortNameModeOrigin = place(reading, node);
  return {};
}

Status readHelpers(Reading& reading, const toml::node& node, std::string_view key, RegistriesConf& conf) {
  USERPOD_TRY(helpers, readTexts(reading, node, key, 16));
  for (const auto& helper : helpers)
    if (!isHelperName(helper))
      return bad(
          reading, node, key,
          quoted(helper) + " is not the name of a helper: what follows docker-credential- in its program's name");
  conf.credentialHelpers = std::move(helpers);
  return {};
}

Status readAlias(Reading& reading, const toml::node& node, std::string_view name, RegistriesConf& conf) {
  auto shortName = parseReference(name);
  if (!shortName || !shortName->isShort() || !shortName->tag.empty() || !shortName->digest.empty())
    return bad(reading, node, name, "is not a short name without registry, tag and digest");
  USERPOD_TRY(value, readText(reading, node, name));
  Alias alias{.origin = place(reading, node)};
  if (!value.empty()) {
    auto full = parseReference(value);
    if (!full || full->isShort() || !full->tag.empty() || !full->digest.empty())
      return bad(reading, node, name, quoted(value) + " is not REGISTRY/NAME without tag and digest");
    alias.name = completed(std::move(*full));
    alias.name.tag.clear();
  }
  conf.aliases.insert_or_assign(shortName->path, std::move(alias));
  return {};
}

Status readAliases(Reading& reading, const toml::node& node, std::string_view key, RegistriesConf& conf) {
  const auto* table = node.as_table();
  if (table == nullptr) return bad(reading, node, key, "must be a table written [aliases]");
  if (table->size() > kMostAliases) return bad(reading, node, key, fmt::format("more than {}", kMostAliases));
  for (const auto& [name, value] : *table) USERPOD_CHECK(readAlias(reading, value, name.str(), conf));
  return {};
}

Status readLayerStoreHelper(Reading& reading, const toml::node& node, std::string_view key, RegistriesConf&) {
  USERPOD_CHECK(readText(reading, node, key));
  warn(reading, fmt::format("{}: {}: is ignored: there is no additional layer store here", place(reading, node), key));
  return {};
}

// [registries.search], [registries.insecure], [registries.block], with lists that are empty: as old packages have them.
bool saysNothing(const toml::node& node) {
  const auto* sections = node.as_table();
  return sections != nullptr && std::all_of(sections->begin(), sections->end(), [](const auto& section) {
           const auto* lists = section.second.as_table();
           return lists != nullptr && std::all_of(lists->begin(), lists->end(), [](const auto& list) {
                    return list.second.is_array() && list.second.as_array()->empty();
                  });
         });
}

Status readVersionOne(Reading& reading, const toml::node& node, std::string_view key, RegistriesConf&) {
  if (saysNothing(node)) {
    warn(reading,
         fmt::format("{}: {}: is of version 1 of the format, and empty; remove it", place(reading, node), key));
    return {};
  }
  return bad(
      reading, node, key,
      "this is version 1 of the format, which is not read; write unqualified-search-registries = [...] for "
      "[registries.search], and [[registry]] with location and insecure = true or blocked = true for the others");
}

constexpr Key<RegistriesConf> kTopKeys[] = {
    {"unqualified-search-registries", readSearch},
    {"short-name-mode", readMode},
    {"credential-helpers", readHelpers},
    {"additional-layer-store-auth-helper", readLayerStoreHelper},
    {"aliases", readAliases},
    {"registry", readRegistries},
    {"registries", readVersionOne},
};
constexpr Key<RegistriesConf> kAliasKeys[] = {{"aliases", readAliases}};

}  // namespace

std::string canonicalHost(std::string_view host) {
  std::string text(host);
  std::transform(text.begin(), text.end(), text.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
  return text == "index.docker.io" ? "docker.io" : text;
}

Result<RegistriesConf> parseRegistriesConf(std::string_view text, const std::string& file, ConfKind kind) {
  if (text.size() > kMostBytes) return Error(Code::ConfigInvalid, file + ": has more than 1 MiB");
  toml::table table;
  try {
    table = toml::parse(text, file);
  } catch (const toml::parse_error& error) {
    return Error(Code::ConfigInvalid,
                 fmt::format("{}:{}: {}", file, error.source().begin.line, excerpt(error.description(), 300)));
  }
  RegistriesConf conf;
  Reading reading{file, conf};
  if (kind == ConfKind::Aliases) {
    USERPOD_CHECK(readKeys(reading, table, kAliasKeys, conf));
  } else {
    USERPOD_CHECK(readKeys(reading, table, kTopKeys, conf));
  }
  return conf;
}

void mergeRegistriesConf(RegistriesConf& into, RegistriesConf&& over) {
  for (auto& table : over.registries) {
    auto same = std::find_if(into.registries.begin(), into.registries.end(),
                             [&](const RegistryTable& one) { return one.prefix == table.prefix; });
    if (same != into.registries.end()) {
      *same = std::move(table);
    } else {
      into.registries.push_back(std::move(table));
    }
  }
  if (over.searchRegistries) {
    into.searchRegistries = std::move(over.searchRegistries);
    into.searchOrigin = std::move(over.searchOrigin);
  }
  if (over.shortNameMode) {
    into.shortNameMode = over.shortNameMode;
    into.shortNameModeOrigin = std::move(over.shortNameModeOrigin);
  }
  if (over.credentialHelpers) into.credentialHelpers = std::move(over.credentialHelpers);
  for (auto& [name, alias] : over.aliases) into.aliases.insert_or_assign(name, std::move(alias));
  std::move(over.warnings.begin(), over.warnings.end(), std::back_inserter(into.warnings));
}

}  // namespace userpod::images

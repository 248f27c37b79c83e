// registries.conf: the first line is a name, the rest the text of the file. What is wrong is told with its place; what
// is good leads names to places that are good.
#include "daemon/images/registries/registries_conf.hpp"
#include "tests/fuzz/candidates.hpp"

using namespace userpod;
using namespace userpod::images;
using fuzz::require;

namespace {

constexpr const char* kConfName = "registries.conf";

Result<RegistriesConf> parsed(std::string_view text, ConfKind kind) {
  auto conf = parseRegistriesConf(text, kConfName, kind);
  if (!conf) {
    require(conf.error().code() == Code::ConfigInvalid, "a file that cannot be read is an invalid configuration");
    require(conf.error().text().starts_with(std::string(kConfName) + ":"), "an error names the file");
    fuzz::checkMessage(conf.error());
    return conf;
  }
  require(conf->warnings.size() <= 51, "there are not too many warnings");
  for (const auto& warning : conf->warnings)
    require(warning.starts_with(kConfName) && isUtf8(warning) && warning.size() < 2000,
            "a warning names the file, and is short and UTF-8");
  return conf;
}

std::string told(const Registries& registries, const Reference& reference) {
  auto candidates = registries.candidates(reference);
  if (!candidates) return candidates.error().text();
  std::string text;
  for (const auto& candidate : *candidates) {
    text += candidate.name.repository() + ":";
    for (const auto& place : candidate.endpoints) text += place.host + "/" + place.path + (place.insecure ? "!" : "");
  }
  return text;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  auto text = fuzz::text(data, size);
  auto line = text.find('\n');
  auto name = text.substr(0, line);
  auto file = line == std::string_view::npos ? std::string_view() : text.substr(line + 1);
  (void)parsed(file, ConfKind::Aliases);
  auto conf = parsed(file, ConfKind::Registries);
  if (!conf) return 0;
  auto twice = *conf;
  mergeRegistriesConf(twice, RegistriesConf(*conf));
  require(twice.registries.size() == conf->registries.size() && twice.aliases.size() == conf->aliases.size(),
          "a file that is read twice adds nothing");
  auto registries = makeRegistries(std::move(*conf));
  require(!registries->credentialHelpers().empty(), "somebody is asked for credentials");
  auto reference = parseReference(name);
  if (!reference) return 0;
  fuzz::checkCandidates(*registries, *reference);
  require(told(*registries, *reference) == told(*makeRegistries(std::move(twice)), *reference),
          "a file that is read twice changes nothing");
  return 0;
}

// Names of images: what parses is complete as a candidate, and its text parses to the same; by nothing configured, and
// by a configuration with mirrors, rewriting, aliases and blocks.
#include "daemon/images/registries/registries_conf.hpp"
#include "tests/fuzz/candidates.hpp"

using namespace userpod;
using namespace userpod::images;
using fuzz::require;

namespace {

constexpr const char* kConf = R"(
unqualified-search-registries = ["a.b", "docker.io", "localhost:5000"]
[aliases]
busybox = "docker.io/busybox"
x = "a.b/c/x"
"team/app" = "[::1]:5000/app"
[[registry]]
prefix = "docker.io"
location = "mirror.example/hub"
[[registry.mirror]]
location = "localhost:5000/cache"
insecure = true
[[registry.mirror]]
location = "a.b/c"
pull-from-mirror = "digest-only"
[[registry]]
prefix = "a.b/c"
location = "docker.io"
[[registry]]
prefix = "a.b"
mirror-by-digest-only = true
mirror = [{ location = "127.0.0.1:80/m" }]
[[registry]]
prefix = "*.example"
location = "c.d/wild"
[[registry]]
prefix = "registry.example:5000/a"
blocked = true
)";

std::shared_ptr<const Registries> configured(const char* text) {
  auto conf = parseRegistriesConf(text, "conf", ConfKind::Registries);
  require(static_cast<bool>(conf), "the configuration is good");
  return makeRegistries(std::move(*conf));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const auto plain = configured("");
  static const auto full = configured(kConf);
  auto text = fuzz::text(data, size);
  isSha256Digest(text);
  auto reference = parseReference(text);
  if (!reference) {
    require(reference.error().code() == Code::InvalidArgument, "a name that does not parse is an invalid argument");
    fuzz::checkMessage(reference.error());
    return 0;
  }
  require(reference->path.find("..") == std::string::npos, "a path leads nowhere else");
  fuzz::checkCandidates(*plain, *reference);
  fuzz::checkCandidates(*full, *reference);
  return 0;
}

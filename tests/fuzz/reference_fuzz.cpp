// Names of images: what parses is complete as a candidate, and its text parses to the same.
#include "daemon/images/registries/registries.hpp"
#include "daemon/sys/util.hpp"
#include "tests/fuzz/fuzz.hpp"

using namespace userpod;
using namespace userpod::images;
using fuzz::require;

namespace {

void checkComplete(const Reference& name) {
  require(!name.host.empty() && !name.path.empty(), "a complete name has a host and a path");
  require(name.tag.empty() != name.digest.empty(), "a complete name has either a tag or a digest");
  auto text = name.digest.empty() ? name.tagged() : name.digested(name.digest);
  auto again = parseReference(text);
  // The search registry may have made it longer than names may be.
  if (!again) return require(text.size() > 255, "a complete name parses");
  require(
      again->host == name.host && again->path == name.path && again->tag == name.tag && again->digest == name.digest,
      "a complete name parses to itself");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const auto registries = *loadRegistries({});
  auto text = fuzz::text(data, size);
  isSha256Digest(text);
  auto reference = parseReference(text);
  if (!reference) {
    require(reference.error().code() == Code::InvalidArgument, "a name that does not parse is an invalid argument");
    require(reference.error().text().size() < 1000 && isUtf8(reference.error().text()),
            "the message is short and UTF-8");
    return 0;
  }
  require(reference->path.find("..") == std::string::npos, "a path leads nowhere else");
  auto candidates = registries->candidates(*reference);
  if (!candidates) return 0;
  for (const auto& candidate : *candidates) {
    checkComplete(candidate.name);
    require(!candidate.endpoints.empty() && !candidate.endpoints.back().mirror, "the registry itself comes last");
    for (const auto& place : candidate.endpoints)
      require(!place.host.empty() && !place.path.empty(), "an endpoint has a host and a path");
  }
  return 0;
}

// What a registry demands: bounded, names in lower case.
#include <algorithm>

#include "daemon/images/client/challenge.hpp"
#include "daemon/images/client/url.hpp"
#include "tests/fuzz/fuzz.hpp"

using namespace userpod::images;
using userpod::fuzz::require;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  auto header = userpod::fuzz::text(data, size);
  std::size_t parameters = 0;
  std::size_t bytes = 0;
  auto isLower = [](const std::string& name) {
    return !name.empty() && std::none_of(name.begin(), name.end(), [](char c) { return c >= 'A' && c <= 'Z'; });
  };
  for (const auto& challenge : parseChallenges(header)) {
    require(isLower(challenge.scheme), "a scheme is there, in lower case");
    bytes += challenge.scheme.size();
    for (const auto& [name, value] : challenge.parameters) {
      require(isLower(name), "the name of a parameter is there, in lower case");
      bytes += name.size() + value.size();
      ++parameters;
      auto encoded = urlEncode(value);
      require(encoded.find_first_of(" \r\n\"#&?/") == std::string::npos, "a value in a URL stays one value");
      parseUrl(value);
    }
  }
  require(parameters <= 64 && bytes <= size, "not more comes out than went in");
  return 0;
}

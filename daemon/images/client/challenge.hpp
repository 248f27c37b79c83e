// WWW-Authenticate (RFC 9110, section 11.6.1): what a registry demands. Pure function of untrusted text.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace userpod::images {

struct Challenge {
  std::string scheme;                             // lower case: "bearer", "basic"
  std::map<std::string, std::string> parameters;  // names in lower case, values without quotes
};

// The challenges of one header value. Lenient as clients have to be: what cannot be read ends the list.
std::vector<Challenge> parseChallenges(std::string_view header);

}  // namespace userpod::images

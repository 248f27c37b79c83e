// What the daemon and userpod-pull say to each other. The daemon begins with an order; the process answers with what
// the name leads to, then fetches the blobs it is told to. It ends when the daemon closes the channel.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "daemon/images/manifest.hpp"
#include "daemon/images/registries/access.hpp"
#include "daemon/images/registries/registries.hpp"
#include "daemon/sys/error.hpp"

namespace userpod::images {

// Daemon to process.
struct PullOrder {
  std::vector<Candidate> candidates;
  Credentials credentials;  // of the caller
  std::int64_t stallSeconds = 30;
};
struct FetchConfig {
  Descriptor descriptor;
};
struct FetchBlob {  // comes with the descriptor to write the bytes to, and to close when they are all verified
  std::size_t number = 0;
  Descriptor descriptor;
};
using Request = std::variant<PullOrder, FetchConfig, FetchBlob>;

// Process to daemon.
struct ResolvedName {  // the body is the manifest
  Reference name;
  std::string digest;          // of what the name led to: an index or the manifest
  std::string manifestDigest;  // of the manifest
  std::string contentType;
};
struct FetchedConfig {};  // the body is the config, verified
struct Received {         // bytes of each blob so far; at most ten times a second
  std::vector<std::pair<std::size_t, std::uint64_t>> blobs;
};
struct FetchedBlob {
  std::size_t number = 0;
};
struct FailedBlob {
  std::size_t number = 0;
  Error error;
  bool readerGone = false;  // nobody read on: the cause is the reader's
};
struct Failed {
  Error error;
};
using Answer = std::variant<ResolvedName, FetchedConfig, Received, FetchedBlob, FailedBlob, Failed>;

nlohmann::json toJson(const Request& request);
nlohmann::json toJson(const Answer& answer);
Result<Request> parseRequest(std::string_view text);  // Internal
Result<Answer> parseAnswer(std::string_view text);    // Internal

}  // namespace userpod::images

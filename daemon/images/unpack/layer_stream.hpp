// One layer, from the bytes as they arrive to a directory: inflate, digest, unpack, as one stream.
#pragma once

#include <string>

#include "daemon/images/unpack/extractor.hpp"
#include "daemon/sys/error.hpp"

namespace userpod::images {

// What is to be done with the bytes of one blob.
struct UnpackOrder {
  std::string blob;    // its digest, for messages
  std::string diffId;  // of the uncompressed tar, verified; empty: not known before, and told
  std::string file;    // of an artifact: the blob becomes this file as it is; empty: it is a layer
  UnpackLimits limits;
  ExtractOptions options;
};

struct Unpacked {
  Extracted extracted;
  std::string diffId;  // of a layer
};

// Reads `source`, a descriptor, to its end and fills `directory` (open, empty). Two threads: one reads and inflates,
// the caller's unpacks. The compressed bytes are verified by who sends them. Errors name the blob.
Result<Unpacked> unpackStream(int source, int directory, const UnpackOrder& order, UnpackCounters& counters);

// The order and the outcome as JSON, for the process that does it; the text that comes from it is not to be trusted.
std::string orderText(const UnpackOrder& order);
Result<UnpackOrder> parseOrder(std::string_view text);
std::string outcomeText(const Result<Unpacked>& outcome);
Result<Unpacked> parseOutcome(std::string_view text);

}  // namespace userpod::images

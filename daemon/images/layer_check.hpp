// What of images is on disk, compared with what is known of it: for Images::check().
#pragma once

#include <map>
#include <set>
#include <stop_token>
#include <string>
#include <vector>

#include "daemon/store/model.hpp"
#include "daemon/sys/error.hpp"
#include "daemon/sys/finding.hpp"

namespace userpod::images {

struct LayersSeen {
  std::string root;                                       // <data>/layers
  std::map<std::string, LayerRecord> known;               // by DiffID
  std::set<std::string> recorded;                         // DiffIDs that the database has
  std::set<std::string> directories;                      // names below root
  std::set<std::string> others;                           // of what is no directory there
  std::set<std::string> underWay;                         // that pulls unpack into, or that are being removed
  std::set<std::string> inUse;                            // see LayerPool
  std::map<std::string, std::vector<std::string>> users;  // by DiffID, the images that have it
};
Findings compareLayers(const LayersSeen& seen);

struct TreeCount {
  std::int64_t bytes = 0;   // of regular files, one of several links once
  std::int64_t inodes = 0;  // without the directory itself
};
// Blocks as long as the tree is large. Canceled.
Result<TreeCount> countTree(const std::string& path, const std::stop_token& stop);
// Nothing when the layer has what was counted when it was unpacked.
Findings compareCount(const LayerRecord& layer, const TreeCount& count, const std::vector<std::string>& users);

// Whether the documents, which the record has, are what the image is named by.
Findings checkDocuments(const ImageRecord& image);

}  // namespace userpod::images

// Images: references, the registry client, the pull pipeline, and what is stored.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <stop_token>
#include <string>
#include <vector>

#include "daemon/images/registries/access.hpp"
#include "daemon/store/model.hpp"
#include "daemon/sys/error.hpp"
#include "daemon/sys/finding.hpp"
#include "policy/settings.hpp"

namespace userpod::images {

struct LayerProgress {
  std::string digest;
  std::string state;       // "waiting", "downloading", "unpacked"
  std::uint64_t done = 0;  // bytes of the compressed layer
  std::uint64_t total = 0;
};

struct PullProgress {
  std::string stage;  // "resolving", "downloading", "committing", "done"
  std::uint64_t done = 0;
  std::uint64_t total = 0;  // 0: not known yet
  std::vector<LayerProgress> layers;
};

struct PullRequest {
  std::string reference;
  Credentials credentials;
  std::function<void(const PullProgress&)> progress;  // from the pull's thread, at most some 10 times a second
  std::stop_token stop;                               // Canceled soon after it is requested; nothing half-made is left
};

// Methods may be called from any thread; find and list never wait for a pull.
class Images {
 public:
  // Programs that pulls run, in the directory that userpod's own are installed in unless said otherwise (tests).
  // `inUse`: layer directories of containers that are there; none of them is removed before the next open(), whatever
  // the database says of it, or nothing because it was lost.
  static Result<std::unique_ptr<Images>> open(const Paths& paths, LiveSettings settings,
                                              std::set<std::string> inUse = {}, const std::string& programs = {});
  virtual ~Images() = default;

  // Blocks until the image is complete and committed, on disk; returns its record. Layers that are there are not
  // fetched again, nor those that an earlier pull had complete when it failed or was killed; those that another pull
  // fetches are waited for.
  virtual Result<ImageRecord> pull(const PullRequest& request) = 0;
  // By id, unique id prefix, tag (":latest" added), digest, tag and digest, short name. nullptr: not here.
  virtual std::shared_ptr<const ImageRecord> find(const std::string& reference) const = 0;
  virtual std::vector<std::shared_ptr<const ImageRecord>> list() const = 0;
  // Manifest, its digest and config: a record with nothing else. NoSuchImage. Reads the database.
  virtual Result<ImageRecord> documents(const std::string& id) const = 0;
  // After a change of the settings: which images are pinned now. Pulls that begin read the rest anew by themselves.
  virtual void renewPins() = 0;
  // Layers of pulls that did not end well, which are kept for a day for the next pull: the bytes that were freed.
  virtual std::int64_t dropUnfinished() = 0;
  // Removes record, names, and the layers no other image has. Unknown: success (idempotent). The caller has checked
  // that no container uses it.
  virtual Status remove(const std::string& id) = 0;
  // Bytes that their removal would free: of layers that no other image has, and of their documents.
  virtual std::int64_t freedBy(const std::vector<std::string>& ids) const = 0;
  // Layer directories (storage names) of an image, lowest first; they stay until the image is removed.
  virtual Result<std::vector<std::string>> layers(const std::string& id) const = 0;

  // What of the stored images is not as it should be. Blocks for some milliseconds; Canceled.
  virtual Result<Findings> check() = 0;
  // Reads every layer's names and every document: blocks for seconds or minutes. counted(done, total), of layers.
  virtual Result<Findings> checkDeeply(const std::stop_token& stop,
                                       const std::function<void(std::size_t, std::size_t)>& counted) = 0;
  // By DiffID, the images that have the layer. As long as images have layers: not for the core strand.
  virtual std::map<std::string, std::vector<std::string>> imagesByLayer() const = 0;
  // Of a finding that is about a file, or about a layer that no image has any more.
  virtual Status mend(const Finding& finding) = 0;
};

}  // namespace userpod::images

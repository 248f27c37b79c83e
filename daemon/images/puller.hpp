// One pull, from a name to a committed record.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "daemon/images/images.hpp"
#include "daemon/images/layer_pool.hpp"
#include "daemon/images/pull_processes.hpp"
#include "daemon/images/registries/registries.hpp"

namespace userpod::images {

struct PullContext {
  const Settings& settings;
  const PullPrograms& programs;
  LayerPool& pool;
  RegistriesFiles& registries;
  std::function<std::shared_ptr<const ImageRecord>(const std::string& id)> known;  // stored already, or nullptr
  std::function<Result<ImageRecord>(ImageRecord)> commit;  // puts the record into store and index
};

// Blocks; any thread.
Result<ImageRecord> pullImage(const PullContext& context, const PullRequest& request);

}  // namespace userpod::images

// One pull, from a name to a committed record.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "daemon/images/images.hpp"
#include "daemon/images/layer_pool.hpp"
#include "daemon/images/client/registry.hpp"
#include "daemon/images/registries/registries.hpp"

namespace userpod::images {

struct PullContext {
  const Settings& settings;
  LayerPool& pool;
  RegistriesFiles& registries;
  std::function<std::shared_ptr<const ImageRecord>(const std::string& id)> known;  // stored already, or nullptr
  // Puts the record into store and index, with the layers that were fetched for it.
  std::function<Result<ImageRecord>(ImageRecord, std::vector<LayerPool::FreshLayer>)> commit;
};

// Blocks; any thread.
Result<ImageRecord> pullImage(const PullContext& context, const PullRequest& request);

}  // namespace userpod::images

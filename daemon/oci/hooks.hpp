// Programs that the OCI runtime runs at points of a container's life.
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/oci/document.hpp"

namespace userpod::oci {

// Stages of the OCI runtime specification, by the names of config.json.
inline constexpr std::array<std::string_view, 6> kHookStages = {"prestart",       "createRuntime", "createContainer",
                                                                "startContainer", "poststart",     "poststop"};

struct Hook {
  std::string path;  // absolute; in the node, for startContainer in the container
  std::vector<std::string> args;
  std::vector<std::string> environment;
  std::int64_t timeout = 0;  // seconds; 0: none
};

// The members path, args, env and timeout of an object.
Hook readHook(Fields& fields);
// Whether it can be run: InvalidArgument names the program that is not there. Nothing is known of startContainer's.
Status checkHook(const std::string& stage, const Hook& hook);
void addHook(Json& spec, const std::string& stage, const Hook& hook);

}  // namespace userpod::oci

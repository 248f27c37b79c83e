// Images: requests to pull requests, records to answers. Pure functions.
#pragma once

#include "api.pb.h"
#include "daemon/images/images.hpp"
#include "daemon/store/model.hpp"
#include "daemon/sys/error.hpp"

namespace userpod::cri {

namespace v1 = ::runtime::v1;

// The reference in an ImageSpec; `field` is the spec's path in the request.
Result<std::string> toReference(std::string_view field, const v1::ImageSpec& spec);
// No credentials when the message is empty. InvalidArgument names the field that is malformed or contradicts another;
// errors never quote any part of it. serverAddress: host and port, "docker.io" by any of its names.
Result<images::Credentials> toCredentials(const v1::AuthConfig& auth);

// asked: the reference that the client used; empty in lists.
void fillItem(const ImageRecord& image, const std::string& asked, v1::Image* item);
// JSON for people: the key "info" of a verbose status.
std::string imageInfo(const ImageRecord& image, const std::string& config);

}  // namespace userpod::cri

// The error of an image, manifest or layer that breaks its format or a limit.
#pragma once

#include <string>

#include "daemon/sys/error.hpp"

namespace userpod::images {

inline Error invalidImage(std::string text) {
  return {Code::ImageInvalid, std::move(text)};
}

}  // namespace userpod::images

// Included before everything where messages are used under the thread sanitizer: map_field.h gives its class two more
// members there, which the protobuf that is installed, and the messages compiled beside it, do not have.
#pragma once

#pragma push_macro("__SANITIZE_THREAD__")
#undef __SANITIZE_THREAD__
#include <google/protobuf/map_field.h>
#pragma pop_macro("__SANITIZE_THREAD__")

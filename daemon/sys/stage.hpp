// Named points that every operation passes: what recovery has to cope with. At log level debug each is a journal entry
// with the field USERPOD_STAGE; tests of recovery end the daemon at one of them.
#pragma once

#include <string_view>

namespace userpod {

// "container.mounted": the object's kind, and what has just been done. `id` is of the pod, container or image, for the
// log. Any thread; costs a comparison when neither the log nor a test asks for it.
//
// USERPOD_KILL_AT=NAME[:N] in the environment of userpod.service (systemctl --user set-environment) ends the process by
// SIGKILL when the stage NAME is passed for the Nth time. USERPOD_HANG_AT=NAME[:N] stops the thread that passes it for
// ever instead: for tests of the watchdog.
void reachStage(std::string_view name, std::string_view id = {});

}  // namespace userpod

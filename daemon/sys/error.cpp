#include "daemon/sys/error.hpp"

#include <array>
#include <cerrno>
#include <cstring>

namespace userpod {
namespace {

struct Row {
  std::string_view name;
  int grpc;
  std::string_view dbus;
  int status;
};

constexpr std::array kRows = {
#define X(name, grpc, dbus, status) Row{#name, grpc, dbus, status},
    USERPOD_ERROR_TABLE(X)
#undef X
};

const Row& row(Code code) {
  return kRows.at(static_cast<std::size_t>(code));
}

}  // namespace

std::string_view codeName(Code code) {
  return row(code).name;
}
int grpcStatus(Code code) {
  return row(code).grpc;
}
std::string_view dbusErrorName(Code code) {
  return row(code).dbus;
}
int exitStatus(Code code) {
  return row(code).status;
}

Error sysError(std::string_view what, int sysErrno) {
  std::array<char, 128> buffer{};
  const char* reason = strerror_r(sysErrno, buffer.data(), buffer.size());
  Code code = sysErrno == ENOSPC || sysErrno == EDQUOT ? Code::NoSpace : Code::System;
  return {code, std::string(what) + ": " + reason, sysErrno};
}

Error sysError(std::string_view what) {
  int saved = errno;
  return sysError(what, saved);
}

}  // namespace userpod

#include "daemon/streaming/tokens.hpp"

#include <openssl/crypto.h>

#include "daemon/sys/util.hpp"

namespace userpod::streaming {
namespace {

constexpr std::size_t kTokenBytes = 32;

}  // namespace

Result<std::string> Tokens::add(SessionRequest request, Clock::time_point now) {
  std::lock_guard lock(mutex_);
  dropOld(now);
  if (pending_.size() >= kMost)
    return Error(Code::LimitsExceeded, "1000 streaming URLs wait for their clients already; each ends after a minute");
  pending_.push_back({randomHex(kTokenBytes), now + kLifetime, std::move(request)});
  return pending_.back().token;
}

std::optional<SessionRequest> Tokens::find(std::string_view token, Clock::time_point now) {
  std::lock_guard lock(mutex_);
  dropOld(now);
  auto found = search(token);
  if (found == pending_.end()) return std::nullopt;
  return found->request;
}

bool Tokens::consume(std::string_view token) {
  std::lock_guard lock(mutex_);
  auto found = search(token);
  if (found == pending_.end()) return false;
  pending_.erase(found);
  return true;
}

// All of them, each compared whole: the time taken tells nothing of how much of a guess was right.
Tokens::Position Tokens::search(std::string_view token) {
  auto found = pending_.end();
  if (token.size() != 2 * kTokenBytes) return found;
  for (auto it = pending_.begin(); it != pending_.end(); ++it)
    if (CRYPTO_memcmp(it->token.data(), token.data(), token.size()) == 0) found = it;
  return found;
}

void Tokens::dropOld(Clock::time_point now) {
  while (!pending_.empty() && pending_.front().end <= now) pending_.pop_front();
}

}  // namespace userpod::streaming

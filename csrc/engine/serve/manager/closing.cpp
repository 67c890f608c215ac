// Manager::begin_close(), wait_closed(), wait(), stop() and discard(): how a user lets go of a
// target.
#include "engine/serve/manager/manager.hpp"
#include "engine/serve/served/statistics.hpp"

namespace uffd {
namespace {

std::string pages_text(uint64_t pages) {
  return std::to_string(pages) + (pages == 1 ? " page" : " pages");
}

EndingReport open_report(const ServedTarget& served, const std::string& reason) {
  EndingReport report;
  report.ending = Ending::keep_open;
  report.reason = reason;
  {
    const auto shared = served.installing();
    report.regions = served.target.regions().size();
  }
  report.missing_pages = served.target.residency().missing();
  report.absent_pages = count(served, Count::enoent);
  report.found_present = count(served, Count::found_present);
  report.poisoned = served.target.poisoned();
  return report;
}

}  // namespace

void Manager::check_stop(const ServedTarget& served) {
  if (served.settings.ending != Ending::keep_open) {
    throw std::logic_error(
        "stop() is for ending='keep-open'; this target ends by itself: call close()");
  }
  if (served.life.stage() != Stage::serving)
    throw std::logic_error("the target is not served any more");
  if (served.living) {
    throw std::logic_error(
        "stop() would lose what the target's events told (which memory it moved and dropped): "
        "close the target, or open its userfaultfd without event features");
  }
}

// A thread that has touched the last page may call close() before the install is marked: waits for
// all marks.
void Manager::await_marks(ServedTarget& served) {
  served.mailbox->call([] {});
  served.leases.await_present();
}

void Manager::begin_close(ServedTarget& served, Missing missing) {
  if (served.life.stage() == Stage::ended) return;
  if (served.life.stage() == Stage::stopped)
    throw std::logic_error("the target was stopped: close the userfaultfd that stop() returned");
  const bool kept_open = served.settings.ending == Ending::keep_open;
  // The other policies need no exact count.
  if (missing == Missing::raise) await_marks(served);
  const uint64_t pages = served.target.residency().missing();
  const bool is_over = pages == 0 || served.gone;
  if (!is_over && missing == Missing::raise) {
    if (kept_open) return;
    throw MissingPagesError(
        pages_text(pages) + " of " + std::to_string(served.target.residency().pages()) +
            " are missing and would read as zeros: wait() for them, or close with missing='fill', "
            "'poison' or, if zeros are right, 'zero'. The target is still served",
        pages);
  }
  if (!is_over && missing != Missing::zero && !served.target.registered()) {
    throw std::logic_error(
        "the target has not registered its memory yet, so nothing can be installed: call "
        "registered() first, or close with missing='zero'");
  }
  if (!is_over && missing == Missing::poison && !(offered_features() & UFFD_FEATURE_POISON)) {
    throw UnsupportedError(EOPNOTSUPP,
                           "this kernel lacks UFFDIO_POISON (Linux 6.6): close with missing='fill'",
                           {"Linux 6.6"});
  }
  if (!kept_open) {
    const bool at_once = missing == Missing::zero;
    served.mailbox->post(served, at_once ? command::end : command::end_complete);
  }
  if (is_over || missing == Missing::zero) return;
  served.fill_when_idle = false;
  const auto kind = missing == Missing::fill ? FillJob::Kind::install : FillJob::Kind::poison;
  if (!fillers_->start(served, kind)) throw std::bad_alloc();
}

std::optional<EndingReport> Manager::wait_closed(ServedTarget& served, Missing missing,
                                                 std::chrono::milliseconds timeout) {
  const bool tries = missing == Missing::fill || missing == Missing::poison;
  const bool kept_open = served.settings.ending == Ending::keep_open;
  const bool closed = served.life.wait(timeout, [&] {
    return served.life.is_over() || (kept_open && (!tries || served.released)) ||
           (tries && served.life.tried_all() && !served.complete() && !served.gone);
  });
  if (!closed) return std::nullopt;
  if (auto report = served.life.report()) return report;
  if (served.life.stage() == Stage::stopped) throw std::logic_error(kStopped);
  if (kept_open && (!tries || served.complete()))
    return open_report(served, "asked for: the manager serves on");
  return open_report(
      served, pages_text(served.target.residency().missing()) +
                  " can be neither supplied nor poisoned (UFFDIO_POISON came with Linux 6.6): the "
                  "userfaultfd stays open and whoever touches them sleeps");
}

bool Manager::wait(ServedTarget& served, std::chrono::milliseconds timeout) {
  const bool done = served.life.wait(
      timeout, [&] { return served.life.is_over() || (served.endless() && served.released); });
  if (served.life.stage() == Stage::stopped && !served.complete()) throw std::logic_error(kStopped);
  return done;
}

Userfaultfd Manager::stop(ServedTarget& served) {
  check_stop(served);
  served.mailbox->post(served, command::stop);
  served.life.wait_until_over();
  if (served.life.stage() != Stage::stopped)
    throw std::logic_error("the target has ended meanwhile: " + served.life.report()->reason);
  return std::move(served.target.uffd());
}

void Manager::discard(ServedTarget& served) {
  served.mailbox->post(served, command::discard);
  served.life.wait_until_over();
}

}  // namespace uffd



@pytest.mark.slow
def test_the_next_round_trains_as_if_nothing_had_learned(tmp_path: Path, make_domain: Any) -> None:
    """Bit for bit: one campaign is answered at a page whose guesses learn, one at a page whose guesses do not."""
    make_domain("a", images=4)
    runs = []
    for name, learns in (("learns", True), ("does-not", False)):
        config, run = settings(tmp_path, domains=("a",), annotator="people", ask=BY_CHANCE), tmp_path / name
        campaign(config, run)
        domains, found = load_domains(config), predictor(run)
        assert found is not None and found.encode is not None and found.head is not None
        features = Ahead(found.encode, lambda one: one.bytes)
        learner = Learner(features, found.head, lambda name, domains=domains: labelled(domains[name]))
        about = Run(name, RunFolder(run).ledger, domains, "regions")
        desk = Desk(about, Guesses(run / "guesses", found), None, learner if learns else None)
        for number, question in enumerate(asked_of(run)):
            desk.take(Sent(**sent(desk, question, number % 2, token=f"answer-{number}")))
        learner.settle()
        assert learner.version > 0 or not learns
        assert desk.guess(asked_of(run)[0].id)["values"]
        desk.close()
        campaign(config, run)
        runs.append(run)
    assert_same_campaign(*runs)
